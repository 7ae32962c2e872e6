package cri

import (
	"google.golang.org/grpc"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// StreamContainerStats is ListContainerStats in several messages.
func (s *Service) StreamContainerStats(r *runtime.StreamContainerStatsRequest, out grpc.ServerStreamingServer[runtime.StreamContainerStatsResponse]) error {
	all, err := s.listContainerStats(out.Context(), r.GetFilter())
	if err != nil {
		return err
	}
	return inBatches(all, func(part []*runtime.ContainerStats) error {
		return out.Send(&runtime.StreamContainerStatsResponse{ContainerStats: part})
	})
}
