package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/cri-pouch/cri-pouch/internal/crash"
	"github.com/cri-pouch/cri-pouch/internal/exhaustion"
	"github.com/cri-pouch/cri-pouch/internal/failpoint"
	shimapi "github.com/cri-pouch/cri-pouch/shim/api/v1"
)

const (
	protocol   = 1 // the oldest protocol of a shim that this client can work with
	reachLimit = 20 * time.Second
	probeLimit = 2 * time.Second
	spawnLimit = 10 * time.Second
	poll       = 10 * time.Millisecond
	maxBackoff = 5 * time.Second
)

// supervise waits for the end of each connection and makes the next, until ctx ends.
func (c *Client) supervise(ctx context.Context) {
	for {
		conn, _ := c.current()
		if conn == nil { // what began to replace it was cut short
			if conn = c.reachAgain(ctx); conn == nil {
				return
			}
			c.connect(conn)
		}
		select {
		case <-ctx.Done():
			return
		case <-conn.broken:
		}
		c.mu.Lock()
		c.conn = nil
		stopping := c.stopping
		c.mu.Unlock()
		_ = conn.rpc.Close()
		if stopping {
			return
		}
		c.o.Log.WithField("pid", conn.pid).Warn("the connection to the shim broke")
	}
}

func (c *Client) connect(conn *connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn = conn
}

// reachAgain tries for ever; nil when ctx ended.
func (c *Client) reachAgain(ctx context.Context) *connection {
	for backoff := 50 * time.Millisecond; ; backoff = min(2*backoff, maxBackoff) {
		conn, err := c.reach(ctx)
		if err == nil {
			return conn
		}
		c.o.Log.WithError(err).Error("cannot reach the shim, will try again")
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(backoff):
		}
	}
}

// reach connects to the shim. Where the lock says that none lives, it cleans up after the last one and starts a new one.
func (c *Client) reach(ctx context.Context) (*connection, error) {
	ctx, cancel := context.WithTimeout(ctx, reachLimit)
	defer cancel()
	if err := c.dir.Make(); err != nil { // a shim whose folder was removed ends itself
		return nil, err
	}
	for {
		conn, err := c.dial(ctx)
		if err == nil {
			return conn, nil
		}
		if errdefs.IsFailedPrecondition(err) {
			return nil, err
		}
		lock, lockErr := c.tryLock()
		if lockErr == nil {
			return c.replace(ctx, lock)
		}
		if !errors.Is(lockErr, unix.EWOULDBLOCK) {
			return nil, lockErr
		}
		select { // it lives: it has just begun, is just ending, or hangs
		case <-ctx.Done():
			return nil, fmt.Errorf("a shim holds %s but does not answer (%v); see %s: %w", c.dir.Lock(), err, c.dir.Log(), errdefs.ErrUnavailable)
		case <-time.After(poll):
		}
	}
}

// tryLock takes the shim's lock: its owner is dead then.
func (c *Client) tryLock() (*os.File, error) {
	f, err := os.OpenFile(c.dir.Lock(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the shim's lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("take the shim's lock: %w", err)
	}
	return f, nil
}

func (c *Client) awaitUnlocked(ctx context.Context) error {
	for {
		lock, err := c.tryLock()
		if err == nil {
			return lock.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the end of the shim: %w", ctx.Err())
		case <-time.After(poll):
		}
	}
}

// replace cleans up under the lock, starts a shim and connects to it.
func (c *Client) replace(ctx context.Context, lock *os.File) (*connection, error) {
	err := c.sweep(ctx)
	_ = lock.Close()
	if err != nil {
		return nil, err
	}
	failpoint.Hit("shim.swept")
	dead, err := c.spawn()
	if err != nil {
		return nil, err
	}
	failpoint.Hit("shim.spawned")
	ctx, cancel := context.WithTimeout(ctx, spawnLimit)
	defer cancel()
	for {
		conn, err := c.dial(ctx)
		if err == nil {
			return conn, nil
		}
		select {
		case <-dead:
			return nil, fmt.Errorf("the shim ended at once, see %s: %w", c.dir.Log(), errdefs.ErrUnavailable)
		case <-ctx.Done():
			return nil, fmt.Errorf("the new shim does not answer (%v), see %s: %w", err, c.dir.Log(), errdefs.ErrUnavailable)
		case <-time.After(poll):
		}
	}
}

// spawn starts a shim in a session of its own: it must outlive the daemon and its terminal. dead is closed when it has
// ended.
func (c *Client) spawn() (dead <-chan struct{}, err error) {
	stderr, err := os.OpenFile(c.dir.Log(), os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the shim's log: %w", err)
	}
	defer stderr.Close()
	args := []string{"--state", c.o.StateDir}
	if c.o.Debug {
		args = append(args, "--debug")
	}
	cmd := exec.Command(c.o.Binary, args...)
	cmd.Dir, cmd.Stderr = "/", stderr
	// The daemon's environment holds what is not for others, such as the sockets of its service manager.
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the shim: %w", err)
	}
	c.o.Log.WithField("pid", cmd.Process.Pid).Info("shim started")
	gone := make(chan struct{})
	crash.Go(c.o.Log, "wait for the shim", func() {
		defer close(gone)
		_ = cmd.Wait() // no zombie is left while the daemon lives
	})
	return gone, nil
}

// dial connects to a shim that answers: FailedPrecondition when it speaks another protocol.
func (c *Client) dial(ctx context.Context) (*connection, error) {
	sock, err := dialUnix(c.dir.Socket())
	if err != nil {
		return nil, err
	}
	conn := &connection{broken: make(chan struct{})}
	conn.rpc = ttrpc.NewClient(exhaustion.Conn(sock), ttrpc.WithOnClose(func() { close(conn.broken) }))
	conn.task, conn.shim = taskapi.NewTTRPCTaskClient(conn.rpc), shimapi.NewShimClient(conn.rpc)
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	info, err := conn.shim.Info(ctx, &emptypb.Empty{})
	if err == nil && info.Protocol < protocol {
		err = fmt.Errorf("the running shim (pid %d) speaks protocol %d, this daemon needs %d: end its pods and restart it: %w",
			info.Pid, info.Protocol, protocol, errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		_ = conn.rpc.Close()
		return nil, fmt.Errorf("probe the shim: %w", err)
	}
	conn.pid = int(info.Pid)
	return conn, nil
}

// dialUnix reaches the socket through its folder's descriptor: a path in a sockaddr has 108 bytes at most.
func dialUnix(path string) (net.Conn, error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("open the shim's state folder: %w", err)
	}
	defer dir.Close()
	conn, err := net.Dial("unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)))
	if err != nil {
		return nil, fmt.Errorf("connect to the shim at %s: %w", path, err)
	}
	return conn, nil
}
