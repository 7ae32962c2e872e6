package cri

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ImageStatus describes an image; one that is not there is an answer without an image. Verbose adds its configuration.
func (s *Service) ImageStatus(ctx context.Context, r *runtime.ImageStatusRequest) (*runtime.ImageStatusResponse, error) {
	name := r.GetImage().GetImage()
	if name == "" {
		return nil, fmt.Errorf("image status: the request names no image: %w", errdefs.ErrInvalidArgument)
	}
	img, err := s.Images.Get(ctx, name)
	if errdefs.IsNotFound(err) {
		return &runtime.ImageStatusResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	resp := &runtime.ImageStatusResponse{Image: imageItem(img)}
	if r.GetVerbose() {
		resp.Info, err = verbose(map[string]any{
			"info": map[string]any{"chainID": img.ChainID, "manifest": img.Manifest, "imageSpec": img.Config},
		})
	}
	return resp, err
}
