package spec

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-pouch/cri-pouch/cri/model"
	"github.com/cri-pouch/cri-pouch/network"
)

// holderUser is whom a holder runs as: nobody that a pod's containers commonly are.
const holderUser = 65535

// HolderInput is all that the specification of a holder depends on.
type HolderInput struct {
	SandboxID string
	Sandbox   model.SandboxConfig
	// Rootfs is an empty folder of the node, PouchInit the path of the static program pouch-init. In a user namespace the
	// pod's root must reach both: mode 0711 or wider on all folders above.
	Rootfs, PouchInit string
	Namespaces        network.Namespaces
}

// holderOOMScore spares the holder: its end would end all containers of the namespace (what the kubelet gives pause).
const holderOOMScore = -998

// Holder gives the specification of the process that holds a pod's shared pid namespace: pouch-init as its pid 1, alone in an
// empty root filesystem, in the pod's other namespaces, without any right. It makes the places for mounts in Rootfs, which
// the root of a user namespace could not.
func (b *Builder) Holder(in HolderInput) (*specs.Spec, error) {
	list, err := podNamespaces(in.Sandbox.Namespaces, in.Namespaces)
	if err != nil {
		return nil, fmt.Errorf("specification of the holder of sandbox %s: %w", in.SandboxID, err)
	}
	cgroups, err := b.cgroupsPath(in.Sandbox.CgroupParent, in.SandboxID)
	if err != nil {
		return nil, fmt.Errorf("specification of the holder of sandbox %s: %w", in.SandboxID, err)
	}
	if err := mountPoints(in.Rootfs); err != nil {
		return nil, fmt.Errorf("specification of the holder of sandbox %s: %w", in.SandboxID, err)
	}
	sp := &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: in.Rootfs, Readonly: true},
		Process: &specs.Process{
			Args: []string{"/pouch-init", "hold"}, Env: []string{defaultPath, "HOME=/"}, Cwd: "/",
			User: specs.User{UID: holderUser, GID: holderUser}, Capabilities: &specs.LinuxCapabilities{}, NoNewPrivileges: true,
			OOMScoreAdj: new(holderOOMScore),
		},
		// libcontainer makes device nodes and links; on a tmpfs they leave nothing behind in the folder.
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "mode=755", "size=64k"}},
			{Destination: "/pouch-init", Type: "bind", Source: in.PouchInit, Options: []string{"bind", "rprivate", "ro", "nosuid", "nodev"}},
		},
		Annotations: sandboxAnnotations(in.SandboxID, in.Sandbox),
		Linux: &specs.Linux{
			CgroupsPath: cgroups,
			Resources:   &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
			Namespaces:  append(list, specs.LinuxNamespace{Type: specs.PIDNamespace}, specs.LinuxNamespace{Type: specs.CgroupNamespace}),
		},
	}
	sp.Linux.Seccomp = seccomp.DefaultProfile(sp)
	if sp.Process.ApparmorProfile, err = b.appArmor(nil); err != nil {
		return nil, fmt.Errorf("specification of the holder of sandbox %s: %w", in.SandboxID, err)
	}
	return sp, b.holderLabel(in, sp)
}

// holderLabel labels the holder like the pod's containers, so that they may see it.
func (b *Builder) holderLabel(in HolderInput, sp *specs.Spec) error {
	return b.seLinux(Input{SandboxID: in.SandboxID, Sandbox: in.Sandbox}, sp)
}

// mountPoints makes what the holder's mounts lie on.
func mountPoints(root string) error {
	for _, dir := range []string{"proc", "dev"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(filepath.Join(root, "pouch-init"), os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	return f.Close()
}
