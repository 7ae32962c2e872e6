// Package spec builds the OCI runtime specification of a container: a function of what CRI asked for, what the image
// says and what the node has. It touches the host only through Host, and reads the image's files only inside Rootfs.
package spec

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cri-pouch/cri-pouch/cri/model"
	"github.com/cri-pouch/cri-pouch/network"
)

// Input is all that a container's specification depends on.
type Input struct {
	ID      string
	Sandbox model.SandboxConfig
	// SandboxID, for the cgroup path and annotations.
	SandboxID string
	Config    model.ContainerConfig
	Image     ocispec.Image
	// Rootfs is the absolute path where the root filesystem is mounted on the host. Files in it are opened with
	// openat2 RESOLVE_IN_ROOT only: /etc/passwd and /etc/group for the user.
	Rootfs string
	// Namespaces of the pod; empty paths are the node's.
	Namespaces network.Namespaces
	// PIDNamespace is the path of the pid namespace to join (pod's holder or target container); empty: by mode.
	PIDNamespace string
	// Files are mounted over /etc/hosts, /etc/resolv.conf, /etc/hostname unless a CRI mount covers the path.
	Files network.Files
	// Volumes are folders of the pod that outlive the container; none lies at or below a mount of Config.
	Volumes []Volume
	// Shm is the host folder of the pod's /dev/shm; empty with the node's IPC namespace (then /dev/shm of the host).
	Shm string
}

// Volume is one folder that outlives the container.
type Volume struct {
	ContainerPath string // absolute, without symlinks in the root filesystem
	HostPath      string
	// UIDMappings and GIDMappings show the owners on disk (ContainerID) as others (HostID); empty: as they are.
	UIDMappings, GIDMappings []model.IDMapping
}

// Output is the specification and what was resolved on the way.
type Output struct {
	Spec *specs.Spec
	User model.User
	Argv []string
	// StopSignal is CRI's, else the image's, else "SIGTERM".
	StopSignal string
}
