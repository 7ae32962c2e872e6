package cri

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/cri/model"
	"github.com/cri-pouch/cri-pouch/richcontainer"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

// UpdateContainerResources changes the limits of a created or running container and keeps them in its record. Fields that
// the request leaves empty stay as they are.
func (s *Service) UpdateContainerResources(ctx context.Context, r *runtime.UpdateContainerResourcesRequest) (*runtime.UpdateContainerResourcesResponse, error) {
	c, err := s.index.container(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	want := resources(r.GetLinux())
	if want == nil {
		return &runtime.UpdateContainerResourcesResponse{}, nil
	}
	if err := checkEachResource("linux", want); err != nil {
		return nil, err
	}
	if err := c.op.Acquire(ctx, 1); err != nil {
		return nil, fmt.Errorf("container %s is busy: %w", c.id, err)
	}
	defer c.op.Release(1)
	if err := s.updateContainer(ctx, c, want); err != nil {
		return nil, err
	}
	return &runtime.UpdateContainerResourcesResponse{}, nil
}

func (s *Service) updateContainer(ctx context.Context, c *container, want *model.Resources) error {
	v := c.view()
	if v.status == task.Stopped || v.removing {
		return fmt.Errorf("container %s has ended, its resources cannot be changed: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	sp, err := s.readSpec(c.id)
	if err != nil {
		return err
	}
	merged := mergeResources(v.rec.Config.Resources, want)
	if want.MemoryLimit != 0 || want.MemorySwap != 0 {
		if err := checkResources("linux", merged); err != nil {
			return fmt.Errorf("container %s: its resources with this update: %w", c.id, err)
		}
	}
	sp.Linux.Resources = s.Spec.Resources(sp.Linux.Resources, merged)
	if v.rec.Rich != nil {
		richcontainer.Mode(v.rec.Rich.Mode).KeepGroupAlive(sp.Linux.Resources)
	}
	if v.status != task.Created {
		b, err := json.Marshal(sp.Linux.Resources)
		if err != nil {
			return fmt.Errorf("encode resources of container %s: %w", c.id, err)
		}
		if err := s.Runtime.Update(ctx, c.id, b); err != nil {
			return fmt.Errorf("update resources of container %s: %w", c.id, err)
		}
	}
	if err := s.writeSpec(c.id, sp); err != nil {
		return err
	}
	if err := s.editPlan(v.rec, func(sp *specs.Spec) { sp.Linux.Resources = s.Spec.Resources(sp.Linux.Resources, merged) }); err != nil {
		return err
	}
	c.mu.Lock()
	c.rec.Config.Resources = merged
	rec := c.rec
	c.mu.Unlock()
	return s.putContainer(ctx, rec)
}
