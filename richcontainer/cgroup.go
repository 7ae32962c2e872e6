package richcontainer

import (
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-pouch/cri-pouch/internal/richrun"
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

// writableCgroups lets the init make cgroups below the container's own, and lift no limit: on v2 the container's processes
// live in a cgroup below the one that has the limits; on v1 only a hierarchy without controllers is writable.
func (i *realInit) writableCgroups(h hierarchy) error {
	sp := i.r.Spec
	at, kernels := i.cgroupMount()
	if !kernels {
		return i.r.Choice.refuse(errdefs.ErrInvalidArgument, "the pod mounts something at %s, which the init needs itself: remove that mount", cgroupFolder)
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

// apart starts the launcher in a cgroup of its own, as systemd does. Memory is counted apart only where no process is in the
// cgroup above (cgroups(7)), so init and services step aside into one of theirs, as often as there are new ones.
const apart = `#!/bin/sh
# The application gets a cgroup of its own, by cri-pouch.
cd /sys/fs/cgroup && mkdir -p pouch-init pouch-app && {
	tries=0
	while [ $tries -lt 100 ] && ! echo +memory >cgroup.subtree_control; do
		while read -r pid; do echo "$pid" >pouch-init/cgroup.procs; done <cgroup.procs
		tries=$((tries + 1))
	done
	echo $$ >pouch-app/cgroup.procs
} 2>/dev/null
cd /
exec `

// launchApart gives the program that is to be a service of an init that makes no cgroups: the launcher; or, where the kubelet
// asks that the OOM killer take the application as a whole, a script that leads it into a cgroup in which it can.
func (i *realInit) launchApart() (string, error) {
	launch := path.Join(richrun.Folder, richrun.LaunchFile)
	if res := i.r.Spec.Linux.Resources; !i.n.CgroupV2 || res == nil || res.Unified[oomGroupFile] != "1" {
		return launch, nil
	}
	sh, there, err := i.image.look("/bin/sh")
	if err != nil {
		return "", i.r.Choice.refuse(errdefs.ErrInvalidArgument, "%w", err)
	}
	if _, kernels := i.cgroupMount(); !kernels || !there || !sh.program(0) {
		return launch, nil
	}
	if err := i.writableCgroups(allOfV2); err != nil {
		return "", err
	}
	name := path.Join(scriptsDir, richrun.LaunchFile)
	i.folder.file(name, []byte(apart+launch+"\n"), 0o500)
	return path.Join(richrun.Folder, name), nil
}

// cgroupMount gives the place of the mount of all cgroups; false: the pod has put something else there.
func (i *realInit) cgroupMount() (int, bool) {
	mounts := i.r.Spec.Mounts
	at := slices.IndexFunc(mounts, func(m specs.Mount) bool { return path.Clean(m.Destination) == cgroupFolder })
	return at, at >= 0 && mounts[at].Type == "cgroup"
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
