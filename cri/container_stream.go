package cri

import (
	"google.golang.org/grpc"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// StreamContainers is ListContainers in several messages.
func (s *Service) StreamContainers(r *runtime.StreamContainersRequest, out grpc.ServerStreamingServer[runtime.StreamContainersResponse]) error {
	return inBatches(s.listContainers(r.GetFilter()), func(part []*runtime.Container) error {
		return out.Send(&runtime.StreamContainersResponse{Containers: part})
	})
}
