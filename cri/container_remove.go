package cri

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/internal/failpoint"
)

// RemoveContainer removes a container, ending it first where it runs. It can be repeated; an unknown one is removed.
func (s *Service) RemoveContainer(ctx context.Context, r *runtime.RemoveContainerRequest) (*runtime.RemoveContainerResponse, error) {
	c, err := s.index.container(r.GetContainerId())
	if errdefs.IsNotFound(err) {
		return &runtime.RemoveContainerResponse{}, s.removeFound(ctx, r.GetContainerId())
	}
	if err != nil {
		return nil, err
	}
	if err := s.removeContainer(ctx, c); err != nil {
		return nil, err
	}
	return &runtime.RemoveContainerResponse{}, nil
}

func (s *Service) removeContainer(ctx context.Context, c *container) error {
	return c.remove.Do(ctx, containerLimit, func(ctx context.Context) error {
		restore, err := s.dismiss(ctx, c)
		if err != nil {
			return err
		}
		defer restore()
		if err := c.op.Acquire(ctx, 1); err != nil {
			return fmt.Errorf("wait for the start of container %s: %w", c.id, err)
		}
		defer c.op.Release(1)
		if _, err := s.index.container(c.id); errdefs.IsNotFound(err) {
			return nil
		}
		c.mu.Lock()
		c.removing = true
		c.mu.Unlock()
		if err := s.killContainer(ctx, c); err != nil {
			return err
		}
		failpoint.Hit("container.remove-ended")
		if err := s.removeRecord(ctx, c); err != nil {
			return err
		}
		failpoint.Hit("container.remove-rootfs")
		if err := s.removeBundle(c.id); err != nil {
			return fmt.Errorf("remove bundle of container %s: %w", c.id, err)
		}
		s.index.dropContainer(c.id)
		s.tellRemoved(c)
		s.containerNames.release(containerName(c.sandboxID, c.view().rec.Config), c.id)
		return nil
	})
}
