package cri

import (
	"google.golang.org/grpc"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// StreamPodSandboxStats is ListPodSandboxStats in several messages.
func (s *Service) StreamPodSandboxStats(r *runtime.StreamPodSandboxStatsRequest, out grpc.ServerStreamingServer[runtime.StreamPodSandboxStatsResponse]) error {
	all, err := s.listSandboxStats(out.Context(), r.GetFilter())
	if err != nil {
		return err
	}
	return inBatches(all, func(part []*runtime.PodSandboxStats) error {
		return out.Send(&runtime.StreamPodSandboxStatsResponse{PodSandboxStats: part})
	})
}
