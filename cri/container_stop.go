package cri

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/signal"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/internal/richrun"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

// StopContainer sends the stop signal, waits for the grace period (seconds), then kills. It can be repeated; an unknown or
// ended container is stopped already.
func (s *Service) StopContainer(ctx context.Context, r *runtime.StopContainerRequest) (*runtime.StopContainerResponse, error) {
	c, err := s.index.container(r.GetContainerId())
	if errdefs.IsNotFound(err) {
		return &runtime.StopContainerResponse{}, s.stopFound(ctx, r.GetContainerId())
	}
	if err != nil {
		return nil, err
	}
	if err := s.stopContainer(ctx, c, durationOf(r.GetTimeout())); err != nil {
		return nil, err
	}
	return &runtime.StopContainerResponse{}, nil
}

func (s *Service) stopContainer(ctx context.Context, c *container, grace time.Duration) error {
	restore, err := s.dismiss(ctx, c)
	if err != nil {
		return err
	}
	defer restore()
	if err := c.op.Acquire(ctx, 1); err != nil { // a start in progress comes first
		return fmt.Errorf("wait for the start of container %s: %w", c.id, err)
	}
	c.op.Release(1)
	v := c.view()
	switch v.status {
	case task.Stopped:
		return s.awaitCleaned(ctx, c)
	case task.Created:
		if v.startError == nil {
			return nil
		}
		return s.killContainer(ctx, c)
	}
	if grace > 0 {
		sig, err := signal.ParseSignal(v.rec.StopSignal)
		if err != nil {
			sig = syscall.SIGTERM
		}
		if err := s.Runtime.Kill(ctx, c.id, uint32(sig), false); err != nil && !gone(err) {
			return fmt.Errorf("send %s to container %s: %w", v.rec.StopSignal, c.id, err)
		}
		rest := s.shutdownTime(c.id, grace)
		ended, err := c.awaitEnd(ctx, grace-rest)
		if err == nil && !ended && rest > 0 { // the application has not ended, its init ends everything
			if err := s.Runtime.Kill(ctx, c.id, uint32(sig), true); err != nil && !gone(err) {
				return fmt.Errorf("shut down the init of container %s: %w", c.id, err)
			}
			ended, err = c.awaitEnd(ctx, rest)
		}
		if err != nil {
			return fmt.Errorf("wait for the end of container %s: %w", c.id, err)
		}
		if ended {
			return s.awaitCleaned(ctx, c)
		}
	}
	return s.killContainer(ctx, c)
}

// awaitCleaned waits until the ended container's mount is gone, so that the kubelet can unmount volumes.
func (s *Service) awaitCleaned(ctx context.Context, c *container) error {
	select {
	case <-c.cleaned:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("clean up after container %s: %w", c.id, ctx.Err())
	}
}

// shutdownTime is the part of the grace period that a rich container's init has for its other services when the application
// does not end: as long as its shutdown may take, at most a third. 0 for a plain container.
func (s *Service) shutdownTime(id string, grace time.Duration) time.Duration {
	plan, err := richrun.ReadPlan(s.bundleDir(id))
	if err != nil {
		return 0
	}
	return min(plan.ShutdownTimeout, grace/3)
}
