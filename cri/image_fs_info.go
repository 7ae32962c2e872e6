package cri

import (
	"context"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ImageFsInfo gives the use of the filesystem that images and containers share.
func (s *Service) ImageFsInfo(ctx context.Context, _ *runtime.ImageFsInfoRequest) (*runtime.ImageFsInfoResponse, error) {
	u, err := s.Images.FsInfo(ctx)
	if err != nil {
		return nil, err
	}
	fs := &runtime.FilesystemUsage{
		Timestamp: u.Time.UnixNano(), FsId: &runtime.FilesystemIdentifier{Mountpoint: u.Mountpoint},
		UsedBytes: &runtime.UInt64Value{Value: u.Bytes}, InodesUsed: &runtime.UInt64Value{Value: u.Inodes},
	}
	// The kubelet asks for the containers' filesystem by name; it is the same one.
	return &runtime.ImageFsInfoResponse{ImageFilesystems: []*runtime.FilesystemUsage{fs}, ContainerFilesystems: []*runtime.FilesystemUsage{fs}}, nil
}
