// Package client reaches the shim from the daemon. It starts the shim where none runs, notices when it dies, cleans up
// after it and starts the next. The shim outlives the daemon: closing the client leaves it running.
package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"github.com/sirupsen/logrus"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"

	"github.com/cri-pouch/cri-pouch/internal/crash"
	"github.com/cri-pouch/cri-pouch/internal/shimstate"
	shimapi "github.com/cri-pouch/cri-pouch/shim/api/v1"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

// Options are what Start needs.
type Options struct {
	Binary   string // path of containerd-shim-pouch-v2
	StateDir string // the node's state folder, on tmpfs; the shim owns its subfolder "shim"
	Log      *logrus.Entry
	Debug    bool // the shim logs every call to <state>/shim/shim.log
}

// Client is a task.Runtime. All methods are safe for concurrent use; while the shim is being replaced they give
// errdefs.ErrUnavailable.
type Client struct {
	o   Options
	dir shimstate.Dir

	mu       sync.Mutex
	conn     *connection // nil while the shim is being replaced
	lost     map[string]bool
	stopping bool
	cancel   context.CancelFunc
	done     chan struct{} // the supervisor has ended
}

var _ task.Runtime = (*Client)(nil)

// connection is one connection to one shim.
type connection struct {
	rpc    *ttrpc.Client
	task   taskapi.TTRPCTaskService
	shim   shimapi.ShimClient
	broken chan struct{}
	pid    int
}

// Start connects to the node's shim, or starts one after cleaning up after a dead one, and supervises it from then on
// until Close. ctx bounds the first connection only.
func Start(ctx context.Context, o Options) (*Client, error) {
	c := &Client{o: o, dir: shimstate.Of(o.StateDir), lost: map[string]bool{}, done: make(chan struct{})}
	conn, err := c.reach(ctx)
	if err != nil {
		return nil, err
	}
	c.conn = conn
	ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
	crash.Go(o.Log, "supervise the shim", func() {
		defer close(c.done)
		crash.Keep(ctx, o.Log, "supervise the shim", func() { c.supervise(ctx) })()
	})
	return c, nil
}

// Close lets go of the shim, which goes on with its containers.
func (c *Client) Close() error {
	c.cancel()
	<-c.done
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil {
		return nil
	}
	err := c.conn.rpc.Close()
	c.conn = nil
	return err
}

// Shutdown ends the shim, which refuses with errdefs.ErrFailedPrecondition while it holds containers, and closes the
// client.
func (c *Client) Shutdown(ctx context.Context) error { return c.shutdown(ctx, false) }

// ShutdownByForce kills and removes all containers of the shim and ends it, and closes the client.
func (c *Client) ShutdownByForce(ctx context.Context) error { return c.shutdown(ctx, true) }

func (c *Client) shutdown(ctx context.Context, force bool) error {
	conn, err := c.current()
	if err != nil {
		return err
	}
	c.setStopping(true)
	if _, err := conn.shim.Shutdown(ctx, &shimapi.ShutdownRequest{Force: force}); err != nil && !closed(err) {
		c.setStopping(false)
		return fmt.Errorf("shut down the shim: %w", native(err))
	}
	select {
	case <-conn.broken:
	case <-ctx.Done():
		return fmt.Errorf("wait for the end of the shim: %w", ctx.Err())
	}
	if err := c.awaitUnlocked(ctx); err != nil {
		return err
	}
	return c.Close()
}

func (c *Client) setStopping(yes bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopping = yes
}

// Lost gives the IDs of containers that died with a shim and were not deleted or created again since. Each subscriber
// to Events is told of them first.
func (c *Client) Lost() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	ids := make([]string, 0, len(c.lost))
	for id := range c.lost {
		ids = append(ids, id)
	}
	return ids
}

func (c *Client) forgetLost(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.lost, id)
}

// Pid is the shim's process, 0 while there is none.
func (c *Client) Pid() int {
	conn, err := c.current()
	if err != nil {
		return 0
	}
	return conn.pid
}

// current gives the connection.
func (c *Client) current() (*connection, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil {
		return nil, fmt.Errorf("the shim is being replaced, try again: %w", errdefs.ErrUnavailable)
	}
	return c.conn, nil
}

// call makes one call and translates its error. Once it fails with DeadlineExceeded after ctx's deadline, ctx has ended.
func (c *Client) call(ctx context.Context, fn func(*connection) error) error {
	conn, err := c.current()
	if err != nil {
		return err
	}
	err = native(fn(conn))
	if deadline, ok := ctx.Deadline(); ok && errors.Is(err, context.DeadlineExceeded) && !time.Now().Before(deadline) {
		// The shim was given the time that was left and has a timer of its own for it. Whose fires first is chance, and
		// callers ask ctx whether a failure is their own limit's: an exec given up while it starts is to be killed.
		<-ctx.Done()
	}
	return err
}

// native turns what came over the socket into classes of errdefs. A connection that broke is Unavailable.
func native(err error) error {
	switch {
	case err == nil:
		return nil
	case closed(err):
		return fmt.Errorf("the shim died during the call: %w", errdefs.ErrUnavailable)
	case errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded):
		return err
	}
	return errgrpc.ToNative(err)
}

func closed(err error) bool {
	return errors.Is(err, ttrpc.ErrClosed) || errors.Is(err, ttrpc.ErrStreamClosed) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}
