package cri

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/cri-pouch/cri-pouch/cri/model"
	"github.com/cri-pouch/cri-pouch/internal/crash"
	"github.com/cri-pouch/cri-pouch/internal/failpoint"
	"github.com/cri-pouch/cri-pouch/internal/hookrun"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

// The reasons of a container's end, as the kubelet shows them.
const (
	reasonCompleted  = hookrun.ReasonCompleted
	reasonError      = hookrun.ReasonError
	reasonStartError = "StartError"
	reasonLost       = "Lost"
	// lostCode stands for an exit code that nobody can know.
	lostCode = 255
)

// exited notes the end of a container that ran. A start in progress comes first: where it fails, it says why.
func (s *Service) exited(ctx context.Context, c *container, exit task.Exit) {
	starting := c.awaitStart(ctx)
	startedAt := c.view().startedAt
	if startedAt.IsZero() { // it ended before StartContainer had the shim's answer
		info, err := s.Runtime.State(ctx, c.id)
		if err == nil {
			startedAt = info.StartedAt
		}
		if startedAt.IsZero() && (err == nil || errdefs.IsNotFound(err)) && starting {
			return // its program never ran
		}
	}
	s.finish(ctx, c, model.End{
		StartedAt: startedAt, FinishedAt: exit.ExitedAt, ExitCode: int32(exit.Code), Reason: hookrun.Reason(exit.Code, exit.OOMKilled),
		Message: joined(s.richEnd(c.view().rec), s.poststartEnd(c)),
	})
}

// lost notes a container whose shim died with it, or that did not survive a reboot. ran says that its program may have run.
func (s *Service) lost(ctx context.Context, c *container, message string, ran bool) {
	v := c.view()
	end := model.End{StartedAt: v.startedAt, FinishedAt: time.Now().UTC(), ExitCode: lostCode, Reason: reasonLost, Message: message}
	if known, err := hookrun.ReadEnd(s.bundleDir(c.id)); err == nil && hooked(v.rec) { // the shim died while the poststop hooks ran
		ran = true
		end = model.End{
			StartedAt: known.StartedAt, FinishedAt: known.FinishedAt, ExitCode: int32(known.ExitCode),
			Reason: hookrun.Reason(known.ExitCode, known.OOMKilled), Message: s.richEnd(v.rec),
		}
	}
	why := "the container's mounts are gone, for " + message
	if message == lostMessage {
		why = "the shim died before it, or while it ran"
	}
	if ran {
		end.Hooks = s.skippedHooks(v.rec, why)
	}
	s.finish(ctx, c, end)
}

// finish ends a container once: the end is made durable, then visible, then shim and mount are let go. Deleting before
// recording could run a container twice after a crash.
func (s *Service) finish(ctx context.Context, c *container, end model.End) {
	c.finishing.Lock() // and no sync.Once: what a panic cuts short is done again
	defer c.finishing.Unlock()
	c.mu.Lock()
	if c.rec.End != nil {
		c.mu.Unlock()
		return
	}
	if end.StartedAt.IsZero() {
		end.StartedAt = c.startedAt
	}
	rec := c.rec
	c.mu.Unlock()
	s.hookEnd(rec, &end)
	rec.End = &end
	if end.Reason != reasonStartError && !end.StartedAt.IsZero() {
		s.tellStarted(c, end.StartedAt)
	}
	s.followers.leave(c)
	err := s.putContainer(ctx, rec)
	failpoint.Hit("container.end-recorded")
	c.mu.Lock()
	c.rec, c.status, c.startedAt = rec, task.Stopped, end.StartedAt
	c.mu.Unlock()
	close(c.ended)
	log := s.Log.WithField("pod", c.sandboxID).WithField("container", c.id)
	crash.Run(log, "tell of the container's end", func() { s.tellEnded(c, end) })
	log.WithField("code", end.ExitCode).WithField("reason", end.Reason).Info("container ended")
	if err != nil {
		log.WithError(err).Warn("cannot record the end of the container yet, will try again")
	}
	s.chores.run("clean up after container "+c.id, 0, func(ctx context.Context) error {
		if err != nil {
			if err = s.putContainer(ctx, rec); err != nil {
				return err
			}
		}
		return s.letGo(ctx, c)
	})
}

// letGo takes an ended container out of the shim and unmounts its root filesystem.
func (s *Service) letGo(ctx context.Context, c *container) error {
	if _, err := s.Runtime.Delete(ctx, c.id); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if err := s.Rootfs.Unmount(ctx, c.id); err != nil {
		return err
	}
	s.noteNodeHooks(c)
	close(c.cleaned)
	return nil
}

func (s *Service) putContainer(ctx context.Context, rec model.Container) error {
	b, err := model.EncodeContainer(rec)
	if err != nil {
		return err
	}
	err = s.Rootfs.Update(ctx, rec.ID, b)
	if errdefs.IsNotFound(err) { // it was removed meanwhile
		return nil
	}
	if err != nil {
		return fmt.Errorf("write record of container %s: %w", rec.ID, err)
	}
	s.keepCopy(containerRecords, rec.ID, b)
	return nil
}
