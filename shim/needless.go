package shim

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"sync"
	"time"

	"github.com/containerd/ttrpc"

	"github.com/cri-pouch/cri-pouch/internal/crash"
	"github.com/cri-pouch/cri-pouch/internal/exhaustion"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

const (
	idleLimit = 10 * time.Minute // without containers and clients: far more than a daemon needs to start again
	lookEvery = 10 * time.Second
)

// attend ends the shim when nobody can need it any more, so that neither a daemon that was taken off the node nor a
// state folder that was removed leaves a process for ever. Containers that run are never touched.
func (s *Server) attend(ctx context.Context) {
	ticker := time.NewTicker(s.lookEvery)
	defer ticker.Stop()
	for {
		select {
		case <-s.ended:
			return
		case <-ticker.C:
		}
		crash.Run(s.log, "look whether anybody needs the shim", func() { s.endIfNeedless(ctx) })
	}
}

func (s *Server) endIfNeedless(ctx context.Context) {
	why, force := s.needless()
	if why == "" {
		return
	}
	// It refuses when a container came meanwhile.
	if err := s.shutdown(ctx, force); err == nil || force {
		s.log.WithError(err).Info(why)
	}
}

// needless says why the shim should end, or nothing; force when it holds ended containers that nobody can reach.
func (s *Server) needless() (why string, force bool) {
	open, quiet := s.clients.state()
	held, ended := s.held()
	switch {
	case held == 0 && open == 0 && quiet >= s.idleLimit:
		return "no container and no client since " + quiet.Round(time.Second).String(), false
	case s.owns():
		return "", false
	case held == 0:
		return "the state folder is gone", false
	case held == ended && open == 0:
		return "the state folder is gone, and all containers have ended", true
	}
	return "", false
}

// held counts the containers, also those that are being created, and how many of them have ended.
func (s *Server) held() (all, ended int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.containers {
		if c.init != nil && c.state() == task.Stopped {
			ended++
		}
	}
	return len(s.containers), ended
}

// owns says whether the lock is still the one in the state folder. If not, no client finds this shim, and another may
// live in the folder.
func (s *Server) owns() bool {
	own, err := s.lock.Stat()
	if err != nil {
		return true
	}
	there, err := os.Stat(s.dir.Lock())
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist)
	}
	return os.SameFile(own, there)
}

// clients lets the shim's own user connect and counts the connections.
type clients struct {
	mu   sync.Mutex
	open int
	last time.Time // when one came or went
}

func newClients() *clients { return &clients{last: time.Now()} }

// Handshake is ttrpc's for a new connection.
func (c *clients) Handshake(ctx context.Context, conn net.Conn) (net.Conn, any, error) {
	conn, who, err := ttrpc.UnixSocketRequireSameUser().Handshake(ctx, conn)
	if err != nil {
		return nil, nil, err
	}
	c.change(1)
	return &clientConn{Conn: exhaustion.Conn(conn), gone: sync.OnceFunc(func() { c.change(-1) })}, who, nil
}

func (c *clients) change(by int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open += by
	c.last = time.Now()
}

func (c *clients) state() (open int, quiet time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.open, time.Since(c.last)
}

type clientConn struct {
	net.Conn
	gone func()
}

// Close may be called more than once.
func (c *clientConn) Close() error {
	c.gone()
	return c.Conn.Close()
}
