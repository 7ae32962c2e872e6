package cri

import (
	"context"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/cri/model"
)

// ListPodSandboxMetrics gives the metrics of all ready pods and their running containers, read at this moment.
func (s *Service) ListPodSandboxMetrics(ctx context.Context, _ *runtime.ListPodSandboxMetricsRequest) (*runtime.ListPodSandboxMetricsResponse, error) {
	all, err := s.listSandboxMetrics(ctx)
	if err != nil {
		return nil, err
	}
	return &runtime.ListPodSandboxMetricsResponse{PodMetrics: all}, nil
}

func (s *Service) listSandboxMetrics(ctx context.Context) ([]*runtime.PodSandboxMetrics, error) {
	readings, err := s.readSandboxes(ctx, func(model.Sandbox) bool { return true })
	if err != nil {
		return nil, err
	}
	known := families()
	places := map[string]*filesystem{} // usually one for all
	var all []*runtime.PodSandboxMetrics
	for _, r := range readings {
		pod := &runtime.PodSandboxMetrics{PodSandboxId: r.rec.ID, Metrics: r.metrics(known)}
		for _, c := range r.containers {
			pod.ContainerMetrics = append(pod.ContainerMetrics, &runtime.ContainerMetrics{
				ContainerId: c.v.rec.ID, Metrics: c.metrics(known, r.rec, places, s.countOpenFiles(ctx, c.v.rec.ID)),
			})
		}
		all = append(all, pod)
	}
	return all, nil
}

// metrics are those of the pod itself: its interfaces and, where it has one of its own, its cgroup.
func (r *sandboxReading) metrics(known []family) []*runtime.Metric {
	base := []string{r.rec.ID, r.rec.ID, "", "", r.rec.Config.Name, r.rec.Config.Namespace}
	var out []*runtime.Metric
	for _, f := range known {
		switch {
		case f.traffic != nil:
			for _, i := range r.interfaces {
				out = append(out, f.messages(base, []sample{{f.traffic(i), []string{i.Name}}})...)
			}
		case f.inPod && r.own:
			out = append(out, f.messages(base, f.read(&measured{stats: r.stats}))...)
		}
	}
	return out
}

func (r *containerReading) metrics(known []family, pod model.Sandbox, places map[string]*filesystem, files openFiles) []*runtime.Metric {
	rec := r.v.rec
	m := &measured{stats: r.stats, container: r, files: files}
	if r.layer != nil {
		place, ok := places[r.layer.Mountpoint]
		if !ok {
			place = lookAtFilesystem(r.layer.Mountpoint)
			places[r.layer.Mountpoint] = place
		}
		m.place = place
	}
	base := []string{rec.ID, rec.ID, rec.Config.UserImage, rec.Config.Name, pod.Config.Name, pod.Config.Namespace}
	var out []*runtime.Metric
	for _, f := range known {
		if f.read != nil {
			out = append(out, f.messages(base, f.read(m))...)
		}
	}
	return out
}
