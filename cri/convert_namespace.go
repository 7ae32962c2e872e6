package cri

import (
	"math"
	"slices"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/cri/model"
)

// maxMappings is the kernel's bound on the lines of an ID map (user_namespaces(7)).
const maxMappings = 340

// namespaces converts a NamespaceOption; nil is CRI's default, all namespaces the pod's. Only a container can target
// another container's pid namespace.
func namespaces(field string, o *runtime.NamespaceOption, container bool) (model.Namespaces, error) {
	var ns model.Namespaces
	var err error
	if ns.Network, err = podOrNode(field+".network", o.GetNetwork()); err != nil {
		return ns, err
	}
	if ns.IPC, err = podOrNode(field+".ipc", o.GetIpc()); err != nil {
		return ns, err
	}
	switch o.GetPid() {
	case runtime.NamespaceMode_POD:
		ns.PID = model.ModePod
	case runtime.NamespaceMode_CONTAINER:
		ns.PID = model.ModeContainer
	case runtime.NamespaceMode_NODE:
		ns.PID = model.ModeNode
	case runtime.NamespaceMode_TARGET:
		ns.PID = model.ModeTarget
	default:
		return ns, invalid(field+".pid", "unknown namespace mode %d", o.GetPid())
	}
	target := o.GetTargetId()
	switch {
	case ns.PID == model.ModeTarget && !container:
		return ns, invalid(field+".pid", "a sandbox cannot have mode TARGET")
	case ns.PID == model.ModeTarget:
		if err := checkName(field+".target_id", target); err != nil {
			return ns, err
		}
	case target != "":
		return ns, invalid(field+".target_id", "is given, but the mode of pid is not TARGET")
	}
	ns.TargetID = target
	ns.User, err = userNamespace(field+".userns_options", o.GetUsernsOptions())
	return ns, err
}

func podOrNode(field string, m runtime.NamespaceMode) (model.NamespaceMode, error) {
	switch m {
	case runtime.NamespaceMode_POD:
		return model.ModePod, nil
	case runtime.NamespaceMode_NODE:
		return model.ModeNode, nil
	}
	return "", invalid(field, "mode %s is neither POD nor NODE", m)
}

// userNamespace converts a UserNamespace; nil, and mode NODE, is the node's.
func userNamespace(field string, u *runtime.UserNamespace) (*model.UserNamespace, error) {
	if u == nil {
		return nil, nil
	}
	mode, err := podOrNode(field+".mode", u.GetMode())
	if err != nil {
		return nil, err
	}
	uids, err := idMappings(field+".uids", u.GetUids())
	if err != nil {
		return nil, err
	}
	gids, err := idMappings(field+".gids", u.GetGids())
	if err != nil {
		return nil, err
	}
	if mode == model.ModeNode {
		if len(uids)+len(gids) > 0 {
			return nil, invalid(field, "mode NODE has no ID mappings")
		}
		return nil, nil
	}
	for name, m := range map[string][]model.IDMapping{".uids": uids, ".gids": gids} {
		if !slices.ContainsFunc(m, func(m model.IDMapping) bool { return m.ContainerID == 0 }) {
			return nil, invalid(field+name, "ID 0 of the pod is not mapped")
		}
	}
	return &model.UserNamespace{UIDs: uids, GIDs: gids}, nil
}

// idMappings converts ID mappings that the kernel would take: no empty, wrapping or overlapping ranges.
func idMappings(field string, in []*runtime.IDMapping) ([]model.IDMapping, error) {
	if len(in) > maxMappings {
		return nil, invalid(field, "has %d mappings, the kernel takes %d", len(in), maxMappings)
	}
	var out []model.IDMapping
	for _, m := range in {
		c, h, n := m.GetContainerId(), m.GetHostId(), m.GetLength()
		if n == 0 {
			return nil, invalid(field, "mapping of %d to %d has no length", c, h)
		}
		// The highest 32-bit number is no ID: the kernel's -1.
		if uint64(c)+uint64(n) > math.MaxUint32 || uint64(h)+uint64(n) > math.MaxUint32 {
			return nil, invalid(field, "mapping of %d to %d, length %d, passes the highest ID", c, h, n)
		}
		for _, o := range out {
			if overlap(c, n, o.ContainerID, o.Length) || overlap(h, n, o.HostID, o.Length) {
				return nil, invalid(field, "mappings of %d and %d overlap", o.ContainerID, c)
			}
		}
		out = append(out, model.IDMapping{ContainerID: c, HostID: h, Length: n})
	}
	return out, nil
}

func overlap(a, alen, b, blen uint32) bool {
	return uint64(a) < uint64(b)+uint64(blen) && uint64(b) < uint64(a)+uint64(alen)
}

// namespaceOptions converts back, for statuses.
func namespaceOptions(ns model.Namespaces) *runtime.NamespaceOption {
	o := &runtime.NamespaceOption{
		Network: modeToCRI(ns.Network), Pid: modeToCRI(ns.PID), Ipc: modeToCRI(ns.IPC), TargetId: ns.TargetID,
	}
	if ns.User != nil {
		o.UsernsOptions = &runtime.UserNamespace{
			Mode: runtime.NamespaceMode_POD, Uids: mappingsToCRI(ns.User.UIDs), Gids: mappingsToCRI(ns.User.GIDs),
		}
	}
	return o
}

func modeToCRI(m model.NamespaceMode) runtime.NamespaceMode {
	switch m {
	case model.ModeContainer:
		return runtime.NamespaceMode_CONTAINER
	case model.ModeNode:
		return runtime.NamespaceMode_NODE
	case model.ModeTarget:
		return runtime.NamespaceMode_TARGET
	}
	return runtime.NamespaceMode_POD
}

func mappingsToCRI(ms []model.IDMapping) []*runtime.IDMapping {
	var out []*runtime.IDMapping
	for _, m := range ms {
		out = append(out, &runtime.IDMapping{ContainerId: m.ContainerID, HostId: m.HostID, Length: m.Length})
	}
	return out
}
