package cri

import (
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/cri/model"
)

// mounts converts the mounts of host paths.
func mounts(field string, in []*runtime.Mount) ([]model.Mount, error) {
	if err := checkCount(field, len(in)); err != nil {
		return nil, err
	}
	var out []model.Mount
	for _, m := range in {
		c, err := hostMount(field, m)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

func hostMount(field string, m *runtime.Mount) (model.Mount, error) {
	out := model.Mount{
		Readonly: m.GetReadonly(), RecursiveReadOnly: m.GetRecursiveReadOnly(), SELinuxRelabel: m.GetSelinuxRelabel(),
	}
	switch {
	case m.GetImage() != nil:
		return out, unsupported("image volumes", field+".image")
	case m.GetImageSubPath() != "":
		return out, unsupported("image volumes", field+".image_sub_path")
	case len(m.GetMountOptions()) > 0:
		return out, unsupported("mount options", field+".mount_options")
	}
	var err error
	if out.ContainerPath, err = containerPath(field+".container_path", m.GetContainerPath()); err != nil {
		return out, err
	}
	if out.HostPath, err = hostPath(field+".host_path", m.GetHostPath()); err != nil {
		return out, err
	}
	switch m.GetPropagation() {
	case runtime.MountPropagation_PROPAGATION_PRIVATE:
		out.Propagation = model.PropagationPrivate
	case runtime.MountPropagation_PROPAGATION_HOST_TO_CONTAINER:
		out.Propagation = model.PropagationHostToContainer
	case runtime.MountPropagation_PROPAGATION_BIDIRECTIONAL:
		out.Propagation = model.PropagationBidirectional
	default:
		return out, invalid(field+".propagation", "unknown propagation %d of %s", m.GetPropagation(), out.ContainerPath)
	}
	if out.RecursiveReadOnly && !out.Readonly {
		return out, invalid(field+".recursive_read_only", "%s is not readonly", out.ContainerPath)
	}
	if out.RecursiveReadOnly && out.Propagation != model.PropagationPrivate {
		return out, invalid(field+".recursive_read_only", "the propagation of %s is not PROPAGATION_PRIVATE", out.ContainerPath)
	}
	if out.UIDMappings, err = idMappings(field+".uidMappings", m.GetUidMappings()); err != nil {
		return out, err
	}
	if out.GIDMappings, err = idMappings(field+".gidMappings", m.GetGidMappings()); err != nil {
		return out, err
	}
	if (len(out.UIDMappings) > 0) != (len(out.GIDMappings) > 0) {
		return out, invalid(field+".uidMappings", "%s has mappings for users or for groups only, give both", out.ContainerPath)
	}
	return out, nil
}

// mountsToCRI converts back, for statuses.
func mountsToCRI(in []model.Mount) []*runtime.Mount {
	var out []*runtime.Mount
	for _, m := range in {
		c := &runtime.Mount{
			ContainerPath: m.ContainerPath, HostPath: m.HostPath, Readonly: m.Readonly, RecursiveReadOnly: m.RecursiveReadOnly,
			SelinuxRelabel: m.SELinuxRelabel, UidMappings: mappingsToCRI(m.UIDMappings), GidMappings: mappingsToCRI(m.GIDMappings),
		}
		switch m.Propagation {
		case model.PropagationHostToContainer:
			c.Propagation = runtime.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
		case model.PropagationBidirectional:
			c.Propagation = runtime.MountPropagation_PROPAGATION_BIDIRECTIONAL
		}
		out = append(out, c)
	}
	return out
}
