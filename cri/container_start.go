package cri

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/cri/model"
	"github.com/cri-pouch/cri-pouch/internal/crash"
	"github.com/cri-pouch/cri-pouch/internal/failpoint"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

// startErrorCode is the exit code of a container whose program never ran: as Created it would escape the kubelet's
// back-off.
const startErrorCode = 128

// StartContainer runs the container's program. A retry joins the start in progress; a running container is started.
func (s *Service) StartContainer(ctx context.Context, r *runtime.StartContainerRequest) (*runtime.StartContainerResponse, error) {
	c, err := s.index.container(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	err = c.start.Do(ctx, startLimit(c.view().rec), func(ctx context.Context) error { return s.startContainer(ctx, c) })
	if err != nil {
		return nil, err
	}
	return &runtime.StartContainerResponse{}, nil
}

func (s *Service) startContainer(ctx context.Context, c *container) error {
	if err := c.op.Acquire(ctx, 1); err != nil {
		return fmt.Errorf("container %s is busy: %w", c.id, err)
	}
	defer c.op.Release(1)
	switch v := c.view(); {
	case v.removing:
		return fmt.Errorf("container %s is being removed: %w", c.id, errdefs.ErrFailedPrecondition)
	case v.status == task.Stopped:
		return fmt.Errorf("container %s has ended already, create its next attempt: %w", c.id, errdefs.ErrFailedPrecondition)
	case v.status != task.Created:
		return nil
	case v.startError != nil:
		return fmt.Errorf("container %s has failed to start (%v), and processes of it do not end yet: %w", c.id, v.startError, errdefs.ErrFailedPrecondition)
	}
	sb, err := s.index.sandbox(c.sandboxID)
	if err != nil {
		return err
	}
	leave, err := s.enter(ctx, sb)
	if err != nil {
		return err
	}
	defer leave()
	waiting, done := c.beginStart(ctx)
	defer done()
	if err := s.awaitPredecessor(waiting, c.view().rec); err != nil {
		return err
	}
	return s.launch(ctx, sb, c)
}

// launch creates the container in the shim and starts it; a failure ends it for good, a panic among them.
func (s *Service) launch(ctx context.Context, sb *sandbox, c *container) error {
	undo := func(err error) error { return err } // nothing has been done yet
	log := s.Log.WithField("pod", c.sandboxID).WithField("container", c.id)
	err := crash.Try(log, "start container "+c.id, func() error {
		rec := c.view().rec
		sp, err := s.readSpec(c.id)
		if err != nil {
			return err
		}
		undo = func(err error) error { return s.startFailed(ctx, c, err) }
		changed, err := s.joinPIDNamespace(ctx, sb, rec, sp)
		if err == nil && changed {
			err = errors.Join(s.writeSpec(c.id, sp), s.followPIDNamespace(rec, sp))
		}
		if err != nil {
			return err
		}
		failpoint.Hit("container.launching")
		if !c.beginCreate() {
			undo = func(err error) error { return fmt.Errorf("start container %s: %w", c.id, err) }
			return errDismissed
		}
		return s.createAndStart(ctx, c, rec)
	})
	if err != nil {
		return undo(err)
	}
	return nil
}

// createAndStart has the shim create the container and run its program.
func (s *Service) createAndStart(ctx context.Context, c *container, rec model.Container) error {
	pid, err := s.Runtime.Create(ctx, task.CreateRequest{
		ID: c.id, Bundle: s.bundleDir(c.id), LogPath: rec.LogPath, Terminal: rec.Config.TTY,
		Stdin: rec.Config.Stdin, StdinOnce: rec.Config.StdinOnce, SystemdCgroup: s.SystemdCgroup,
	})
	wanted := c.endCreate(pid)
	if err != nil {
		return c.whyFailed(err)
	}
	failpoint.Hit("container.created")
	if !wanted {
		return errDismissed
	}
	startedAt, err := s.Runtime.Start(ctx, c.id)
	if err != nil {
		return c.whyFailed(err)
	}
	failpoint.Hit("container.started")
	// The end of a short-lived one may have told it already. The program runs: a panic here must not end it.
	crash.Run(s.Log.WithField("pod", c.sandboxID).WithField("container", c.id), "tell of the container's start", func() { s.tellStarted(c, startedAt) })
	return nil
}

// startFailed ends a container whose program could not be run and gives the error for the client.
func (s *Service) startFailed(ctx context.Context, c *container, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
	defer cancel()
	if errdefs.IsUnavailable(cause) { // the shim is being replaced: nothing ran, the client tries again
		return fmt.Errorf("start container %s: %w", c.id, cause)
	}
	what := "start container " + c.id
	failed := func(ctx context.Context) {
		s.noteNodeHooks(c)
		now := time.Now().UTC()
		s.finish(ctx, c, model.End{
			StartedAt: now, FinishedAt: now, ExitCode: startErrorCode, Reason: reasonStartError, Message: strings.TrimPrefix(cause.Error(), what+": "),
		})
	}
	err := s.endFailedStart(ctx, c)
	if err == nil {
		failed(ctx)
		return prefixed(what, cause)
	}
	// Nothing is reported ended while a process of it lives.
	c.mu.Lock()
	c.startError = cause
	c.mu.Unlock()
	s.Log.WithField("container", c.id).WithError(err).Warn("a container that failed to start does not end yet")
	s.chores.run("end container "+c.id+", whose start failed", 100*time.Millisecond, func(ctx context.Context) error {
		for {
			err := s.endFailedStart(ctx, c)
			if err == nil {
				failed(ctx)
				return nil
			}
			if pause(ctx, time.Second); ctx.Err() != nil { // nothing tells when the kernel lets go of it
				return err
			}
		}
	})
	return prefixed(what, fmt.Errorf("%w; processes of it do not end yet, they may hang in the kernel (%v)", cause, err))
}

// endFailedStart ends what the shim has of a container whose start failed; nil: nothing of it is left.
func (s *Service) endFailedStart(ctx context.Context, c *container) error {
	_ = s.Runtime.Kill(ctx, c.id, uint32(syscall.SIGKILL), true)
	if _, err := s.Runtime.Delete(ctx, c.id); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}
