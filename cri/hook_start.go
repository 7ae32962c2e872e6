package cri

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cri-pouch/cri-pouch/cri/model"
	"github.com/cri-pouch/cri-pouch/hooks"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

// Prestart hooks make a start long. Whoever wants the container's end does not wait for them: they are ended.

// errDismissed ends a start that somebody no longer wants.
var errDismissed = fmt.Errorf("the container was stopped before its program ran: %w", errdefs.ErrAborted)

// startLimit is how long a start goes on: a predecessor's poststop hooks may come before it, its own prestart hooks are in it, and
// its poststop hooks where a hook of the node ends the program.
func startLimit(rec model.Container) time.Duration {
	limit := containerLimit
	if hooked(rec) {
		limit += hooks.PrestartLimit + hooks.PoststopLimit
	}
	if rec.Lineage.Predecessor != "" {
		limit += hooks.PoststopLimit
	}
	return limit
}

// endLimit is how long the end of a killed container may take to be told: after its poststop hooks.
func endLimit(rec model.Container) time.Duration {
	if !hooked(rec) {
		return killLimit
	}
	return killLimit + hooks.PoststopLimit
}

// beginStart notes that a start is in progress, which dismiss ends. ctx ends then with errDismissed.
func (c *container) beginStart(ctx context.Context) (context.Context, func()) {
	ctx, cut := context.WithCancelCause(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut, c.startOver = cut, make(chan struct{})
	if c.dismissals > 0 {
		cut(errDismissed)
	}
	return ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		close(c.startOver)
		c.cut, c.startOver = nil, nil
		cut(nil)
	}
}

// awaitStart waits until a start in progress is over, and says whether there was one.
func (c *container) awaitStart(ctx context.Context) bool {
	c.mu.Lock()
	over := c.startOver
	c.mu.Unlock()
	if over == nil {
		return false
	}
	select {
	case <-over:
	case <-ctx.Done():
	}
	return true
}

// created notes the pid of the container that was created for a start in progress, and says whether that is still wanted.
func (c *container) createdAs(pid int) (wanted bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pid = pid
	return c.dismissals == 0
}

func (c *container) dismissed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dismissals > 0
}

// dismiss ends a start that waits for a predecessor or for prestart hooks, and those that begin before the returned function is
// called. Any other start is left alone: it takes no time.
func (s *Service) dismiss(ctx context.Context, c *container) (restore func(), err error) {
	c.mu.Lock()
	c.dismissals++
	if c.cut != nil {
		c.cut(errDismissed)
	}
	rec, status, pid := c.rec, c.status, c.pid
	c.mu.Unlock()
	restore = func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.dismissals--
	}
	if !hooked(rec) || status != task.Created || pid == 0 {
		return restore, nil
	}
	info, err := s.Runtime.State(ctx, c.id)
	if err == nil && info.Status == task.Created {
		err = s.Runtime.Kill(ctx, c.id, uint32(syscall.SIGKILL), true)
	}
	if err != nil && !gone(err) {
		restore()
		return nil, fmt.Errorf("end the prestart hooks of container %s: %w", c.id, err)
	}
	return restore, nil
}

// awaitPredecessor waits for the poststop hooks of the container that this one follows: they clean up for it.
func (s *Service) awaitPredecessor(ctx context.Context, rec model.Container) error {
	if rec.Lineage.Predecessor == "" {
		return nil
	}
	before, err := s.index.container(rec.Lineage.Predecessor)
	if err != nil || !hooked(before.view().rec) {
		return nil
	}
	select {
	case <-before.ended:
		return nil
	default:
	}
	if info, err := s.Runtime.State(ctx, before.id); err != nil || !info.Ending {
		return nil // it runs beside this one, as its client wants, or is gone
	}
	if _, err := before.awaitEnd(ctx, hooks.PoststopLimit+killLimit); err != nil {
		if cause := context.Cause(ctx); errors.Is(cause, errDismissed) {
			return fmt.Errorf("start container %s: %w", rec.ID, cause)
		}
		return fmt.Errorf("wait for the poststop hooks of container %s, which container %s follows: %w", before.id, rec.ID, err)
	}
	return nil
}
