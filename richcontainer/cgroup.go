package richcontainer

import (
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

const cgroupFolder = "/sys/fs/cgroup"

// writableCgroups lets systemd make cgroups below the container's own, and lift no limit: on v2 the container's processes
// live in a cgroup below the one that has the limits; on v1 only the hierarchy without controllers is writable.
func (i *realInit) writableCgroups() error {
	sp := i.r.Spec
	at := slices.IndexFunc(sp.Mounts, func(m specs.Mount) bool { return path.Clean(m.Destination) == cgroupFolder })
	if at < 0 || sp.Mounts[at].Type != "cgroup" {
		return i.r.Choice.refuse(errdefs.ErrInvalidArgument, "the pod mounts something at %s, which systemd needs itself: remove that mount", cgroupFolder)
	}
	mount := sp.Mounts[at]
	mount.Options = slices.DeleteFunc(slices.Clone(mount.Options), func(o string) bool { return o == "ro" || o == "rw" })
	sp.Mounts = slices.Clone(sp.Mounts)
	if i.n.CgroupV2 {
		mount.Options = append(mount.Options, "rw")
		sp.Mounts[at] = mount
		return nil
	}
	mount.Options = append(mount.Options, "ro")
	sp.Mounts[at] = mount
	if i.n.SystemdHierarchy == "" {
		return i.r.Choice.refuse(errdefs.ErrFailedPrecondition,
			"the node has cgroup v1 without the hierarchy of systemd: mount it (mkdir /sys/fs/cgroup/systemd; mount -t cgroup -o none,name=systemd systemd /sys/fs/cgroup/systemd)")
	}
	own := bind(path.Join(i.n.SystemdHierarchy, cgroupPath(sp.Linux.CgroupsPath)), path.Join(cgroupFolder, "systemd"), "rw")
	own.Options = append(own.Options, "noexec")
	sp.Mounts = slices.Insert(sp.Mounts, at+1, own)
	return nil
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
