package cri

import (
	"context"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ListMetricDescriptors tells which metrics ListPodSandboxMetrics gives; the list is the same for as long as the daemon runs.
func (s *Service) ListMetricDescriptors(context.Context, *runtime.ListMetricDescriptorsRequest) (*runtime.ListMetricDescriptorsResponse, error) {
	resp := &runtime.ListMetricDescriptorsResponse{}
	for _, f := range families() {
		keys := append(append([]string{}, baseLabels...), f.labels...)
		resp.Descriptors = append(resp.Descriptors, &runtime.MetricDescriptor{Name: f.name, Help: f.help, LabelKeys: keys})
	}
	return resp, nil
}
