package cri

import (
	"context"
	"slices"
	"strings"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/cri/model"
)

// ListPodSandbox lists sandboxes, newest first, answered from memory.
func (s *Service) ListPodSandbox(_ context.Context, r *runtime.ListPodSandboxRequest) (*runtime.ListPodSandboxResponse, error) {
	return &runtime.ListPodSandboxResponse{Items: s.listSandboxes(r.GetFilter())}, nil
}

func (s *Service) listSandboxes(f *runtime.PodSandboxFilter) []*runtime.PodSandbox {
	var items []*runtime.PodSandbox
	for _, sb := range s.index.listedSandboxes() {
		if item := sandboxItem(sb.record()); sandboxMatches(item, f) {
			items = append(items, item)
		}
	}
	slices.Reverse(items)
	return items
}

func sandboxItem(rec model.Sandbox) *runtime.PodSandbox {
	return &runtime.PodSandbox{
		Id: rec.ID, Metadata: sandboxMetadata(rec.Config), State: sandboxState(rec), CreatedAt: rec.CreatedAt.UnixNano(),
		Labels: rec.Config.Labels, Annotations: rec.Config.Annotations, RuntimeHandler: rec.Config.RuntimeHandler,
	}
}

func sandboxMetadata(c model.SandboxConfig) *runtime.PodSandboxMetadata {
	return &runtime.PodSandboxMetadata{Name: c.Name, Uid: c.UID, Namespace: c.Namespace, Attempt: c.Attempt}
}

func sandboxState(rec model.Sandbox) runtime.PodSandboxState {
	if rec.State == model.SandboxReady {
		return runtime.PodSandboxState_SANDBOX_READY
	}
	return runtime.PodSandboxState_SANDBOX_NOTREADY
}

func sandboxMatches(item *runtime.PodSandbox, f *runtime.PodSandboxFilter) bool {
	if f == nil {
		return true
	}
	return strings.HasPrefix(item.Id, f.Id) &&
		(f.State == nil || f.State.State == item.State) &&
		hasLabels(item.Labels, f.LabelSelector)
}

// hasLabels says whether labels hold every pair of want.
func hasLabels(labels, want map[string]string) bool {
	for k, v := range want {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}
