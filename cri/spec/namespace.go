package spec

import (
	"fmt"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-pouch/cri-pouch/cri/model"
	"github.com/cri-pouch/cri-pouch/network"
)

// namespaces joins the pod's namespaces and makes the container's own.
func (b *Builder) namespaces(in Input, sp *specs.Spec) error {
	list, err := podNamespaces(in.Sandbox.Namespaces, in.Namespaces)
	if err != nil {
		return err
	}
	switch mode := in.Config.Security.Namespaces.PID; mode {
	case model.ModeContainer:
		list = append(list, specs.LinuxNamespace{Type: specs.PIDNamespace})
	case model.ModeNode:
		if in.Sandbox.Namespaces.PID != model.ModeNode {
			return fmt.Errorf("pid namespace of the node asked for in a pod that has its own: %w", errdefs.ErrInvalidArgument)
		}
	default:
		if in.PIDNamespace == "" {
			return fmt.Errorf("pid namespace of mode %q has no path", mode)
		}
		list = append(list, specs.LinuxNamespace{Type: specs.PIDNamespace, Path: in.PIDNamespace})
	}
	if !in.Config.Security.Privileged {
		list = append(list, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	sp.Linux.Namespaces = list
	return nil
}

// podNamespaces are those that all containers of the pod are in, and a mount namespace of one's own. A namespace that the
// pod should have and that has no path is an error: the container would live in the node's. The ID mappings of a user
// namespace are left out: a specification has them, or a path that gives them.
func podNamespaces(mode model.Namespaces, at network.Namespaces) ([]specs.LinuxNamespace, error) {
	list := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	for _, ns := range []struct {
		kind specs.LinuxNamespaceType
		path string
		own  bool
	}{
		{specs.NetworkNamespace, at.Net, mode.Network != model.ModeNode},
		{specs.UTSNamespace, at.UTS, mode.Network != model.ModeNode},
		{specs.IPCNamespace, at.IPC, mode.IPC != model.ModeNode},
		{specs.UserNamespace, at.User, mode.User != nil},
	} {
		if !ns.own {
			continue
		}
		if ns.path == "" {
			return nil, fmt.Errorf("the pod's %s namespace has no path", ns.kind)
		}
		list = append(list, specs.LinuxNamespace{Type: ns.kind, Path: ns.path})
	}
	return list, nil
}

func mappings(in []model.IDMapping) []specs.LinuxIDMapping {
	var out []specs.LinuxIDMapping
	for _, m := range in {
		out = append(out, specs.LinuxIDMapping{ContainerID: m.ContainerID, HostID: m.HostID, Size: m.Length})
	}
	return out
}
