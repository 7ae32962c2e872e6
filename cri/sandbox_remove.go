package cri

import (
	"context"

	"github.com/containerd/errdefs"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/internal/failpoint"
)

// RemovePodSandbox removes the sandbox with its containers, stopping what still runs. It can be repeated; an unknown
// sandbox is removed already.
func (s *Service) RemovePodSandbox(ctx context.Context, r *runtime.RemovePodSandboxRequest) (*runtime.RemovePodSandboxResponse, error) {
	if err := s.removeSandboxByID(ctx, r.GetPodSandboxId()); err != nil {
		return nil, err
	}
	return &runtime.RemovePodSandboxResponse{}, nil
}

func (s *Service) removeSandboxByID(ctx context.Context, id string) error {
	sb, err := s.index.sandbox(id)
	if errdefs.IsNotFound(err) {
		return s.removeFound(ctx, id)
	}
	if err != nil {
		return err
	}
	if err := s.stopSandbox(ctx, sb); err != nil {
		return err
	}
	return sb.remove.Do(ctx, sandboxLimit, func(ctx context.Context) error {
		for _, c := range s.index.containersOf(sb.id) {
			if err := s.removeContainer(ctx, c); err != nil {
				return err
			}
		}
		failpoint.Hit("sandbox.emptied")
		if err := s.bequeath(ctx, sb); err != nil {
			return err
		}
		if err := s.wipeSandbox(ctx, sb); err != nil {
			return err
		}
		s.publishSandbox(runtime.ContainerEventType_CONTAINER_DELETED_EVENT, sb)
		s.sandboxNames.release(sandboxName(sb.record().Config), sb.id)
		return nil
	})
}
