package spec

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-pouch/cri-pouch/cri/model"
)

// mounts lays the request's mounts over the pod's files, and those over the kernel's file systems. A mount takes the place of
// one at the same path; a mounted /dev takes away all that would lie below it.
func (b *Builder) mounts(in Input, sp *specs.Spec) error {
	var own []specs.Mount
	for _, m := range in.Config.Mounts {
		c, err := b.hostMount(in, m, sp)
		if err != nil {
			return fmt.Errorf("mount %s at %s: %w", m.HostPath, m.ContainerPath, err)
		}
		own = slices.DeleteFunc(own, func(o specs.Mount) bool { return o.Destination == c.Destination })
		own = append(own, c)
	}
	covered := func(at string) bool {
		return slices.ContainsFunc(own, func(m specs.Mount) bool {
			return m.Destination == at || m.Destination == "/dev" && strings.HasPrefix(at, "/dev/")
		})
	}
	for _, m := range append(b.kernelMounts(in), podFiles(in)...) {
		if !covered(m.Destination) {
			sp.Mounts = append(sp.Mounts, m)
		}
	}
	// What lies deeper is mounted later; among equals the order is the request's.
	slices.SortStableFunc(own, func(a, b specs.Mount) int { return depth(a.Destination) - depth(b.Destination) })
	sp.Mounts = append(sp.Mounts, own...)
	// A mount of the request above one of ours would hide it.
	slices.SortStableFunc(sp.Mounts, func(a, b specs.Mount) int { return depth(a.Destination) - depth(b.Destination) })
	volumes, err := b.volumes(in)
	if err != nil {
		return err
	}
	sp.Mounts = append(volumes, sp.Mounts...)
	return nil
}

func depth(p string) int { return strings.Count(path.Clean(p), "/") }

// kernelMounts are the file systems that the kernel makes for a container, in forms that it allows in the namespaces given.
func (b *Builder) kernelMounts(in Input) []specs.Mount {
	sysMode := "ro"
	if in.Config.Security.Privileged {
		sysMode = "rw"
	}
	user := in.Sandbox.Namespaces.User
	proc := specs.Mount{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}}
	sys := specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", sysMode}}
	mqueue := []specs.Mount{{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}}}
	if user != nil {
		// A user namespace may mount these only if it owns the namespace that they show.
		if in.Config.Security.Namespaces.PID == model.ModeNode {
			proc = bindOf("/proc")
		}
		if in.Sandbox.Namespaces.Network == model.ModeNode {
			sys = bindOf("/sys", sysMode)
		}
		if in.Sandbox.Namespaces.IPC == model.ModeNode {
			mqueue = nil
			if exists(filepath.Join(b.host.dev, "mqueue")) { // not every node has it mounted
				mqueue = append(mqueue, bindOf("/dev/mqueue"))
			}
		}
	}
	out := []specs.Mount{
		proc,
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: devpts(user)},
		sys,
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: append([]string{"nosuid", "noexec", "nodev", "relatime", sysMode}, b.hierarchyFlags(in)...)},
	}
	shm := in.Shm
	if shm == "" {
		shm = "/dev/shm"
	}
	return append(append(out, mqueue...), specs.Mount{
		Destination: "/dev/shm", Type: "bind", Source: shm, Options: []string{"rbind", "rprivate", "nosuid", "noexec", "nodev", "rw"},
	})
}

func bindOf(p string, more ...string) specs.Mount {
	return specs.Mount{
		Destination: p, Type: "bind", Source: p, Options: append([]string{"rbind", "rprivate", "nosuid", "noexec", "nodev"}, more...),
	}
}

// devpts gives terminals to group 5 (tty), where the user namespace has such a group.
func devpts(u *model.UserNamespace) []string {
	opts := []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}
	if u == nil || slices.ContainsFunc(u.GIDs, func(m model.IDMapping) bool { return m.ContainerID <= 5 && 5-m.ContainerID < m.Length }) {
		opts = append(opts, "gid=5")
	}
	return opts
}

// hierarchyFlags are those that a mount of cgroup v2 has to name: in the node's cgroup namespace, where privileged containers
// are, it would take them from the hierarchy as a whole.
func (b *Builder) hierarchyFlags(in Input) []string {
	if !in.Config.Security.Privileged || !b.node.CgroupV2 {
		return nil
	}
	return b.node.CgroupFlags
}

// podFiles are the pod's files below /etc. They go with the root filesystem: where that is read-only, so are they.
func podFiles(in Input) []specs.Mount {
	mode := "rw"
	if in.Config.Security.ReadonlyRootfs {
		mode = "ro"
	}
	var out []specs.Mount
	for _, f := range [][2]string{
		{"/etc/hosts", in.Files.Hosts}, {"/etc/resolv.conf", in.Files.ResolvConf}, {"/etc/hostname", in.Files.Hostname},
	} {
		if f[1] != "" {
			out = append(out, specs.Mount{Destination: f[0], Type: "bind", Source: f[1], Options: []string{"rbind", "rprivate", mode}})
		}
	}
	return out
}

// hostMount gives the mount of a host path and sets the propagation of the root filesystem that it needs.
func (b *Builder) hostMount(in Input, m model.Mount, sp *specs.Spec) (specs.Mount, error) {
	source, err := b.source(m.HostPath)
	if err != nil {
		return specs.Mount{}, err
	}
	if m.Propagation == model.PropagationBidirectional && in.Sandbox.Namespaces.User != nil {
		return specs.Mount{}, fmt.Errorf("bidirectional propagation is impossible out of a user namespace: %w", errdefs.ErrInvalidArgument)
	}
	propagation, err := propagate(source, m.Propagation, sp, b.host.mountinfo)
	if err != nil {
		return specs.Mount{}, err
	}
	mode := "rw"
	switch {
	case m.RecursiveReadOnly && !b.node.RecursiveReadOnly:
		return specs.Mount{}, fmt.Errorf("recursive read-only needs mount_setattr(2), which the node's kernel lacks (Linux 5.12 has it): %w", errdefs.ErrFailedPrecondition)
	case m.RecursiveReadOnly:
		mode = "rro"
	case m.Readonly:
		mode = "ro"
	}
	if m.SELinuxRelabel && b.node.SELinux && !in.Config.Security.Privileged {
		if err := b.relabel(in, source); err != nil {
			return specs.Mount{}, err
		}
	}
	return specs.Mount{
		Destination: path.Join("/", m.ContainerPath), Type: "bind", Source: source, Options: []string{"rbind", propagation, mode},
		UIDMappings: mappings(m.UIDMappings), GIDMappings: mappings(m.GIDMappings),
	}, nil
}

// propagate gives the mount option. Mounts can only pass where source lies on a mount that passes them itself, and through a
// root filesystem that does (mount_namespaces(7)).
func propagate(source string, p model.Propagation, sp *specs.Spec, mountinfo string) (string, error) {
	if p != model.PropagationHostToContainer && p != model.PropagationBidirectional {
		return "rprivate", nil
	}
	at, optional, err := mountOf(source, mountinfo)
	if err != nil {
		return "", err
	}
	shared := hasTag(optional, "shared:")
	if p == model.PropagationBidirectional {
		if !shared {
			return "", fmt.Errorf("propagation %s needs a shared mount, but %s is not shared (mount --make-shared %s): %w", p, at, at, errdefs.ErrFailedPrecondition)
		}
		sp.Linux.RootfsPropagation = "rshared"
		return "rshared", nil
	}
	if !shared && !hasTag(optional, "master:") {
		return "", fmt.Errorf("propagation %s needs a shared or slave mount, but %s is private (mount --make-shared %s): %w", p, at, at, errdefs.ErrFailedPrecondition)
	}
	if sp.Linux.RootfsPropagation == "" {
		sp.Linux.RootfsPropagation = "rslave"
	}
	return "rslave", nil
}

func hasTag(optional, tag string) bool {
	return slices.ContainsFunc(strings.Fields(optional), func(f string) bool { return strings.HasPrefix(f, tag) })
}

// mountOf gives the mount that p lies on, and its optional fields (proc_pid_mountinfo(5)).
func mountOf(p, table string) (at, optional string, err error) {
	f, err := os.Open(table)
	if err != nil {
		return "", "", fmt.Errorf("find the mount of %s: %w", p, err)
	}
	defer f.Close()
	list, err := mountinfo.GetMountsFromReader(f, mountinfo.ParentsFilter(p))
	if err != nil {
		return "", "", fmt.Errorf("find the mount of %s: %w", p, err)
	}
	for _, m := range list {
		if len(m.Mountpoint) >= len(at) { // of two at one place the later one is on top
			at, optional = m.Mountpoint, m.Optional
		}
	}
	return at, optional, nil
}
