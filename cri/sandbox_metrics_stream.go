package cri

import (
	"google.golang.org/grpc"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// StreamPodSandboxMetrics is ListPodSandboxMetrics in several messages.
func (s *Service) StreamPodSandboxMetrics(_ *runtime.StreamPodSandboxMetricsRequest, out grpc.ServerStreamingServer[runtime.StreamPodSandboxMetricsResponse]) error {
	all, err := s.listSandboxMetrics(out.Context())
	if err != nil {
		return err
	}
	return inBatches(all, func(part []*runtime.PodSandboxMetrics) error {
		return out.Send(&runtime.StreamPodSandboxMetricsResponse{PodSandboxMetrics: part})
	})
}
