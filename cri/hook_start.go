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

// A start can be long: a predecessor's poststop hooks, file systems that do not answer, prestart hooks. Whoever wants the
// container's end does not wait for it: the start is ended.

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
		c.cut, c.startOver, c.creating = nil, nil, false
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

// beginCreate notes that the shim is asked to create the container, unless somebody wants its end.
func (c *container) beginCreate() (wanted bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dismissals > 0 {
		return false
	}
	c.creating = true
	return true
}

// endCreate notes the pid of the container that was created for a start in progress, 0 where that has failed, and reports
// whether the start is still wanted.
func (c *container) endCreate(pid int) (wanted bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.creating, c.pid = false, pid
	return c.dismissals == 0
}

// whyFailed adds to the error of a start that somebody no longer wanted that this was the reason.
func (c *container) whyFailed(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dismissals == 0 || errdefs.IsUnavailable(err) {
		return err
	}
	return fmt.Errorf("%w (%w)", errDismissed, err)
}

// dismiss ends a start in progress, whatever it waits for, and those that begin before the returned function is called. A program
// that is about to run is left alone. It waits for the end of a creation, for as long as the shim needs to give that up.
func (s *Service) dismiss(ctx context.Context, c *container) (restore func(), err error) {
	c.mu.Lock()
	c.dismissals++
	if c.cut != nil {
		c.cut(errDismissed)
	}
	c.mu.Unlock()
	restore = func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.dismissals--
	}
	err = s.cancelCreate(ctx, c)
	if err == nil {
		err = s.endPrestart(ctx, c)
	}
	if err != nil {
		restore()
		return nil, err
	}
	return restore, nil
}

// cancelInterval is the time between two requests to give a creation up: the first one may overtake that for the creation.
const cancelInterval = 50 * time.Millisecond

// cancelCreate has the shim give up a creation under way. A creation that is over has its container left alone.
func (s *Service) cancelCreate(ctx context.Context, c *container) error {
	for {
		c.mu.Lock()
		creating, over := c.creating, c.startOver
		c.mu.Unlock()
		if !creating {
			return nil
		}
		if _, err := s.Runtime.Delete(ctx, c.id); err != nil && !gone(err) {
			return fmt.Errorf("end the creation of container %s: %w", c.id, err)
		}
		select {
		case <-over:
		case <-time.After(cancelInterval):
		case <-ctx.Done():
			return fmt.Errorf("end the creation of container %s: %w", c.id, ctx.Err())
		}
	}
}

// endPrestart ends the prestart hooks of a container, which end with it.
func (s *Service) endPrestart(ctx context.Context, c *container) error {
	c.mu.Lock()
	rec, status, pid := c.rec, c.status, c.pid
	c.mu.Unlock()
	if !hooked(rec) || status != task.Created || pid == 0 {
		return nil
	}
	info, err := s.Runtime.State(ctx, c.id)
	if err == nil && info.Status == task.Created {
		err = s.Runtime.Kill(ctx, c.id, uint32(syscall.SIGKILL), true)
	}
	if err != nil && !gone(err) {
		return fmt.Errorf("end the prestart hooks of container %s: %w", c.id, err)
	}
	return nil
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
