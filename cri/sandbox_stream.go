package cri

import (
	"google.golang.org/grpc"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// StreamPodSandboxes is ListPodSandbox in several messages.
func (s *Service) StreamPodSandboxes(r *runtime.StreamPodSandboxesRequest, out grpc.ServerStreamingServer[runtime.StreamPodSandboxesResponse]) error {
	return inBatches(s.listSandboxes(r.GetFilter()), func(part []*runtime.PodSandbox) error {
		return out.Send(&runtime.StreamPodSandboxesResponse{PodSandboxes: part})
	})
}
