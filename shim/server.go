// Package shim runs the containers of a node in one process: libcontainer as a library, containerd's task messages over
// ttrpc on one socket, and a small service of its own for what these lack. It writes the CRI logs, waits for the ends,
// and knows nothing of the daemon. Its state lies on tmpfs and cannot outlive a boot.
package shim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"github.com/cri-pouch/cri-pouch/internal/crash"
	taskapi "github.com/cri-pouch/cri-pouch/shim/api/taskv3"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/exhaustion"
	"github.com/cri-pouch/cri-pouch/internal/filewatch"
	"github.com/cri-pouch/cri-pouch/internal/shimstate"
	shimapi "github.com/cri-pouch/cri-pouch/shim/api/v1"
)

// Protocol is raised when an older client could not work with this shim.
const Protocol = 1

// Limits on what waits for a container. They are far above what a healthy container needs.
const (
	createLimit  = 60 * time.Second // from the first system call of a create or exec to its answer
	startLimit   = 30 * time.Second // from opening exec.fifo to the program's execve
	programLimit = time.Second      // from a start until its program is ready for signals
	killLimit    = 10 * time.Second // from SIGKILL to the end
	drainLimit   = 500 * time.Millisecond
	hurryLimit   = 2 * time.Second  // for the callers of execs in a container that has ended
	lockLimit    = 10 * time.Second // a predecessor that is just ending
)

// Options are what New needs.
type Options struct {
	StateDir string // the node's state folder; the shim owns its subfolder "shim"
	Log      *logrus.Entry
}

// Server is a shim. All its methods are safe for concurrent use.
type Server struct {
	dir       shimstate.Dir
	log       *logrus.Entry
	lock      *os.File
	startedAt time.Time
	host      *host
	events    *broker
	files     *filewatch.Watcher
	oom       *oomWatch
	slots     *slots
	threads   launchThreads
	clients   *clients
	backlog   *backlog

	idleLimit, lookEvery time.Duration // those of attend

	reaching atomic.Int32 // launches that look at paths of somebody else's choice

	mu         sync.Mutex
	containers map[string]*container
	ending     bool
	ended      chan struct{}
}

// New takes the state folder: errdefs.ErrUnavailable when another shim owns it.
func New(o Options) (*Server, error) {
	dir := shimstate.Of(o.StateDir)
	if err := dir.Make(); err != nil {
		return nil, err
	}
	lock, err := takeLock(dir.Lock())
	if err != nil {
		return nil, err
	}
	if err := checkChildren(); err != nil {
		lock.Close()
		return nil, err
	}
	files := filewatch.New(o.Log)
	return &Server{
		dir: dir, log: o.Log, lock: lock, startedAt: time.Now(), host: newHost(o.Log), events: newBroker(), files: files, oom: newOOMWatch(files, o.Log),
		slots:      newSlots(max(4, 4*runtime.NumCPU())),
		containers: map[string]*container{},
		ended:      make(chan struct{}),
		clients:    newClients(),
		backlog:    newBacklog(),
		idleLimit:  idleLimit, lookEvery: lookEvery,
	}, nil
}

func takeLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock of the shim's state: %w", err)
	}
	for until := time.Now().Add(lockLimit); ; time.Sleep(20 * time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(until) {
			f.Close()
			return nil, fmt.Errorf("another shim owns %s (%v): %w", filepath.Dir(path), err, errdefs.ErrUnavailable)
		}
	}
}

// Serve answers on the shim's socket until Shutdown, or until nobody can need the shim any more. Containers that are held
// then die with the process.
func (s *Server) Serve(ctx context.Context) error {
	listener, err := s.listen()
	if err != nil {
		return err
	}
	server, err := ttrpc.NewServer(ttrpc.WithServerHandshaker(s.clients), ttrpc.WithUnaryServerInterceptor(s.edge))
	if err != nil {
		return fmt.Errorf("make ttrpc server: %w", err)
	}
	taskapi.RegisterTaskService(server, taskService{s})
	shimapi.RegisterShimService(server, shimService{s})
	crash.Go(s.log, "look whether anybody needs the shim", func() { s.attend(ctx) })
	crash.Go(s.log, "end the shim", func() {
		<-s.ended
		// The answer to Shutdown must get out first; it is the last one.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		s.events.close()
		_ = server.Shutdown(ctx)
		_ = server.Close()
	})
	err = server.Serve(ctx, exhaustion.Listen(listener, "the shim's socket", s.log))
	if s.owns() { // else it may be another shim's
		_ = os.Remove(s.dir.Socket())
	}
	s.files.Close()
	if err != nil && !errors.Is(err, ttrpc.ErrServerClosed) {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// listen reaches the socket through its folder's descriptor: a path in a sockaddr has 108 bytes at most.
func (s *Server) listen() (net.Listener, error) {
	dir, err := os.Open(string(s.dir))
	if err != nil {
		return nil, fmt.Errorf("open the shim's state folder: %w", err)
	}
	defer dir.Close()
	if err := os.Remove(s.dir.Socket()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove the socket of a former shim: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(s.dir.Socket())), Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", s.dir.Socket(), err)
	}
	l.SetUnlinkOnClose(false) // that path means something else by then
	return l, nil
}

// get finds a container that has been created.
func (s *Server) get(id string) (*container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.containers[id]
	switch {
	case c == nil || c.idle:
		return nil, fmt.Errorf("container %q is not in the shim: %w", id, errdefs.ErrNotFound)
	case c.init == nil:
		return nil, fmt.Errorf("container %s is still being created: %w", id, errdefs.ErrFailedPrecondition)
	}
	return c, nil
}

// cancelCreation ends the creation of a container that is under way, whatever holds it up. The caller of create gets the error.
func (s *Server) cancelCreation(id string) {
	s.mu.Lock()
	c := s.containers[id]
	creating := c != nil && c.init == nil
	s.mu.Unlock()
	if creating {
		c.bereft(errNotWanted)
	}
}

// errNotWanted ends the creation of a container that is deleted meanwhile.
var errNotWanted = fmt.Errorf("the container was deleted while it was created: %w", errdefs.ErrAborted)

// all gives the containers that have been created.
func (s *Server) all() []*container {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*container, 0, len(s.containers))
	for _, c := range s.containers {
		if c.init != nil {
			list = append(list, c)
		}
	}
	return list
}

// reserve books the ID of a container that is about to be created.
func (s *Server) reserve(c *container) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending {
		return fmt.Errorf("the shim is shutting down: %w", errdefs.ErrUnavailable)
	}
	if other := s.containers[c.id]; other != nil {
		if other.idle {
			return fmt.Errorf("a creation of container %s that was given up still waits for a file system: %w", c.id, errdefs.ErrAlreadyExists)
		}
		return fmt.Errorf("container %s is already in the shim: %w", c.id, errdefs.ErrAlreadyExists)
	}
	s.containers[c.id] = c
	return nil
}

func (s *Server) forget(c *container) {
	c.hooks.close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.containers[c.id] == c {
		delete(s.containers, c.id)
	}
}

// shutdown ends the shim; with containers only by force, and then they are killed first.
func (s *Server) shutdown(ctx context.Context, force bool) error {
	s.mu.Lock()
	held := len(s.containers)
	if held > 0 && !force {
		s.mu.Unlock()
		return fmt.Errorf("the shim holds %d containers, end them first: %w", held, errdefs.ErrFailedPrecondition)
	}
	if s.ending {
		s.mu.Unlock()
		return nil
	}
	s.ending = true
	s.mu.Unlock()
	var errs []error
	for _, c := range s.all() {
		errs = append(errs, c.destroyByForce(ctx))
	}
	close(s.ended)
	return errors.Join(errs...)
}
