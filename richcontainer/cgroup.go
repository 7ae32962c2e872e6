package richcontainer

import (
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

const cgroupFolder = "/sys/fs/cgroup"

// hierarchy is what systemd has of the node's cgroups.
type hierarchy int

const (
	allOfV2  hierarchy = iota // the node has v2: the container's part of it, with controllers
	besideV1                  // the node has v1: v2's hierarchy, which has no controllers there
	namedV1                   // the hierarchy name=systemd of v1, which has none either
)

// hierarchyFor chooses what a systemd of that version can live with; 0 is an unknown version.
func (n Node) hierarchyFor(r Request, version int) (hierarchy, error) {
	switch {
	case n.CgroupV2:
		return allOfV2, nil
	case n.SystemdHierarchy != "" && version < systemdNeverV1:
		return namedV1, nil
	case n.Unified != "":
		return besideV1, nil
	case version >= systemdNeverV1:
		return 0, r.Choice.refuse(errdefs.ErrFailedPrecondition,
			"systemd %d of the image knows cgroup v2 only, which the node does not have, not even beside v1: boot the node with it (systemd.unified_cgroup_hierarchy=1), mount its hierarchy at %s/unified before cri-pouch starts, or use an image with systemd %d or older",
			version, cgroupFolder, systemdNeverV1-1)
	}
	return 0, r.Choice.refuse(errdefs.ErrFailedPrecondition,
		"the node has cgroup v1 without the hierarchy of systemd: mount it (mkdir /sys/fs/cgroup/systemd; mount -t cgroup -o none,name=systemd systemd /sys/fs/cgroup/systemd)")
}

// writableCgroups lets systemd make cgroups below the container's own, and lift no limit: on v2 the container's processes
// live in a cgroup below the one that has the limits; on v1 only a hierarchy without controllers is writable.
func (i *realInit) writableCgroups(h hierarchy) error {
	sp := i.r.Spec
	at := slices.IndexFunc(sp.Mounts, func(m specs.Mount) bool { return path.Clean(m.Destination) == cgroupFolder })
	if at < 0 || sp.Mounts[at].Type != "cgroup" {
		return i.r.Choice.refuse(errdefs.ErrInvalidArgument, "the pod mounts something at %s, which systemd needs itself: remove that mount", cgroupFolder)
	}
	mount := sp.Mounts[at]
	mount.Options = slices.DeleteFunc(slices.Clone(mount.Options), func(o string) bool { return o == "ro" || o == "rw" })
	sp.Mounts = slices.Clone(sp.Mounts)
	switch h {
	case allOfV2:
		mount.Options = append(mount.Options, "rw")
		sp.Mounts[at] = mount
	case besideV1:
		sp.Mounts[at] = i.ownCgroup(i.n.Unified, cgroupFolder)
	case namedV1:
		mount.Options = append(mount.Options, "ro")
		sp.Mounts[at] = mount
		sp.Mounts = slices.Insert(sp.Mounts, at+1, i.ownCgroup(i.n.SystemdHierarchy, path.Join(cgroupFolder, "systemd")))
	}
	return nil
}

// ownCgroup mounts the container's folder of a hierarchy.
func (i *realInit) ownCgroup(hierarchy, at string) specs.Mount {
	own := bind(path.Join(hierarchy, cgroupPath(i.r.Spec.Linux.CgroupsPath)), at, "rw")
	own.Options = append(own.Options, "noexec")
	return own
}

// cgroupPath gives a container's cgroup below the root of a hierarchy. Of systemd's driver the form is "slice:prefix:name",
// where a slice lies in those that its name lists: a-b.slice is a.slice/a-b.slice (systemd.slice(5)).
func cgroupPath(spec string) string {
	parts := strings.Split(spec, ":")
	if len(parts) != 3 {
		return path.Join("/", spec)
	}
	out, above := "/", ""
	for _, p := range strings.Split(strings.TrimSuffix(parts[0], ".slice"), "-") {
		if p == "" {
			continue
		}
		above = strings.TrimPrefix(above+"-"+p, "-")
		out = path.Join(out, above+".slice")
	}
	return path.Join(out, parts[1]+"-"+parts[2]+".scope")
}
