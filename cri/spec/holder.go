package spec

import (
	"fmt"

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
	// Rootfs is a folder of the node with the static program pouch-init and the empty folders
	// proc and dev. In a user namespace the pod's root must reach it: mode 0711 or wider on all
	// folders above.
	Rootfs     string
	Namespaces network.Namespaces
}

// holderOOMScore spares the holder: its end would end all containers of the namespace (what the kubelet gives pause).
const holderOOMScore = -998

// Holder gives the specification of the process that holds a pod's shared pid namespace: pouch-init
// as its pid 1, alone in a root filesystem, in the pod's other namespaces, without any right.
func (b *Builder) Holder(in HolderInput) (*specs.Spec, error) {
	list, err := podNamespaces(in.Sandbox.Namespaces, in.Namespaces)
	if err != nil {
		return nil, fmt.Errorf("specification of the holder of sandbox %s: %w", in.SandboxID, err)
	}
	cgroups, err := b.cgroupsPath(in.Sandbox.CgroupParent, in.SandboxID)
	if err != nil {
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
