package cri

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// RemoveImage takes an image away with all its names. Containers on it keep running; an absent one is no error.
func (s *Service) RemoveImage(ctx context.Context, r *runtime.RemoveImageRequest) (*runtime.RemoveImageResponse, error) {
	name := r.GetImage().GetImage()
	if name == "" {
		return nil, fmt.Errorf("remove image: the request names no image: %w", errdefs.ErrInvalidArgument)
	}
	if err := s.Images.Remove(ctx, name); err != nil {
		return nil, err
	}
	return &runtime.RemoveImageResponse{}, nil
}
