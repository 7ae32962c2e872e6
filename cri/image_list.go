package cri

import (
	"context"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/snapshot"
)

// ListImages lists all images, or the one that the filter names; answered from memory.
func (s *Service) ListImages(ctx context.Context, r *runtime.ListImagesRequest) (*runtime.ListImagesResponse, error) {
	all, err := s.listImages(ctx, r.GetFilter())
	if err != nil {
		return nil, err
	}
	return &runtime.ListImagesResponse{Images: all}, nil
}

// StreamImages is ListImages in several messages.
func (s *Service) StreamImages(r *runtime.StreamImagesRequest, out grpc.ServerStreamingServer[runtime.StreamImagesResponse]) error {
	all, err := s.listImages(out.Context(), r.GetFilter())
	if err != nil {
		return err
	}
	return inBatches(all, func(part []*runtime.Image) error {
		return out.Send(&runtime.StreamImagesResponse{Images: part})
	})
}

func (s *Service) listImages(ctx context.Context, f *runtime.ImageFilter) ([]*runtime.Image, error) {
	if name := f.GetImage().GetImage(); name != "" {
		img, err := s.Images.Get(ctx, name)
		if errdefs.IsNotFound(err) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		return []*runtime.Image{imageItem(img)}, nil
	}
	all, err := s.Images.List(ctx)
	if err != nil {
		return nil, err
	}
	items := make([]*runtime.Image, len(all))
	for i, img := range all {
		items[i] = imageItem(img)
	}
	return items, nil
}

func imageItem(img snapshot.Image) *runtime.Image {
	item := &runtime.Image{
		Id: img.ID, RepoTags: img.RepoTags, RepoDigests: img.RepoDigests, Size: uint64(img.Size), Pinned: img.Pinned,
		Spec: &runtime.ImageSpec{Image: img.ID},
	}
	item.Uid, item.Username = imageUser(img.Config.Config.User)
	return item
}

// imageUser takes an image's USER apart: CRI wants a number or a name, and no group. A number that does not fit is a
// name, so that nothing takes it for another user's number (CVE-2024-40635).
func imageUser(user string) (*runtime.Int64Value, string) {
	user, _, _ = strings.Cut(user, ":")
	if user == "" {
		return nil, ""
	}
	if uid, err := strconv.ParseUint(user, 10, 31); err == nil {
		return &runtime.Int64Value{Value: int64(uid)}, ""
	}
	return nil, user
}
