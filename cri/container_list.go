package cri

import (
	"context"
	"slices"
	"strings"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/cri/model"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

// ListContainers lists containers, newest first, answered from memory.
func (s *Service) ListContainers(_ context.Context, r *runtime.ListContainersRequest) (*runtime.ListContainersResponse, error) {
	return &runtime.ListContainersResponse{Containers: s.listContainers(r.GetFilter())}, nil
}

func (s *Service) listContainers(f *runtime.ContainerFilter) []*runtime.Container {
	var items []*runtime.Container
	for _, c := range s.index.listedContainers() {
		if item := containerItem(c.view()); containerMatches(item, f) {
			items = append(items, item)
		}
	}
	slices.Reverse(items)
	return items
}

func containerItem(v view) *runtime.Container {
	return &runtime.Container{
		Id: v.rec.ID, PodSandboxId: v.rec.SandboxID, Metadata: containerMetadata(v.rec.Config),
		Image: imageSpec(v.rec), ImageRef: v.rec.ImageRef, ImageId: v.rec.ImageID, State: containerState(v),
		CreatedAt: v.rec.CreatedAt.UnixNano(), Labels: v.rec.Config.Labels, Annotations: v.rec.Config.Annotations,
	}
}

func containerMetadata(c model.ContainerConfig) *runtime.ContainerMetadata {
	return &runtime.ContainerMetadata{Name: c.Name, Attempt: c.Attempt}
}

// imageSpec is what this container was asked for; two tags can share one image ID.
func imageSpec(rec model.Container) *runtime.ImageSpec {
	return &runtime.ImageSpec{Image: rec.Config.UserImage, UserSpecifiedImage: rec.Config.UserImage, Annotations: rec.Config.ImageAnnotations}
}

func containerState(v view) runtime.ContainerState {
	switch v.status {
	case task.Created:
		return runtime.ContainerState_CONTAINER_CREATED
	case task.Running, task.Paused:
		return runtime.ContainerState_CONTAINER_RUNNING
	case task.Stopped:
		return runtime.ContainerState_CONTAINER_EXITED
	}
	return runtime.ContainerState_CONTAINER_UNKNOWN
}

func containerMatches(item *runtime.Container, f *runtime.ContainerFilter) bool {
	if f == nil {
		return true
	}
	return strings.HasPrefix(item.Id, f.Id) && strings.HasPrefix(item.PodSandboxId, f.PodSandboxId) &&
		(f.State == nil || f.State.State == item.State) &&
		hasLabels(item.Labels, f.LabelSelector)
}
