package cri

import (
	"context"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cri-pouch/cri-pouch/shim/task"
)

// takeBack takes a container out of the shim whose start was cut off: the program did not run, so the container is as good as
// new. Prestart hooks that still run must not lead to a program that nobody has asked for twice. One that begins all the same,
// before the shim is told, is taken over. Until that is settled, the container can be neither started nor removed, and its pod
// not stopped.
func (s *Service) takeBack(ctx context.Context, c *container) {
	leave := func() {}
	if sb, err := s.index.sandbox(c.sandboxID); err == nil {
		if err := sb.use.Acquire(ctx, 1); err != nil {
			return // the recovery as a whole has ended
		}
		leave = func() { sb.use.Release(1) }
	}
	if err := c.op.Acquire(ctx, 1); err != nil {
		leave()
		return
	}
	s.chores.run("take back the start of container "+c.id+" that was cut off", 0, func(ctx context.Context) error {
		if err := s.endStart(ctx, c); err != nil {
			return err
		}
		c.op.Release(1)
		leave()
		return nil
	})
}

// endStart has the shim give a start up, or finds out that its program runs.
func (s *Service) endStart(ctx context.Context, c *container) error {
	for {
		_, err := s.Runtime.Delete(ctx, c.id)
		if err == nil || errdefs.IsNotFound(err) {
			s.noteNodeHooks(c)
			return nil
		}
		if !errdefs.IsFailedPrecondition(err) {
			return err
		}
		if info, err := s.Runtime.State(ctx, c.id); err == nil && info.Status != task.Created && !info.StartedAt.IsZero() {
			s.takeOver(ctx, c, info)
			return nil
		}
		pause(ctx, 50*time.Millisecond) // it is being created: nothing tells when
		if ctx.Err() != nil {
			return err
		}
	}
}

// takeOver makes a container running whose program began while the daemon recovered.
func (s *Service) takeOver(ctx context.Context, c *container, info task.Info) {
	c.mu.Lock()
	c.pid = info.Pid
	c.mu.Unlock()
	s.tellStarted(c, info.StartedAt)
	// An end that was told before the container counted as running was told to nobody.
	if info, err := s.Runtime.State(ctx, c.id); err == nil && info.Status == task.Stopped && info.Exit != nil {
		s.exited(ctx, c, *info.Exit)
	}
}
