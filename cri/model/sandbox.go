// Package model holds cri-pouch's own domain types: what a sandbox and a container were asked to be,
// and what is durably known of them. CRI messages are converted into these types once, at the edge of
// package cri, and never stored; what stands here is what the metadata database keeps (as JSON).
package model

import "time"

// NamespaceMode says whose namespace a container lives in (CRI NamespaceMode).
type NamespaceMode string

// The namespace modes of CRI. The zero value is ModePod for network and IPC; for PID CRI's zero is POD too.
const (
	ModePod       NamespaceMode = "pod"
	ModeContainer NamespaceMode = "container"
	ModeNode      NamespaceMode = "node"
	ModeTarget    NamespaceMode = "target"
)

// IDMapping maps Length IDs from ContainerID on to HostID on (user_namespaces(7)).
type IDMapping struct {
	ContainerID uint32 `json:"containerID"`
	HostID      uint32 `json:"hostID"`
	Length      uint32 `json:"length"`
}

// UserNamespace is the pod's user namespace; nil means the host's.
type UserNamespace struct {
	UIDs []IDMapping `json:"uids"`
	GIDs []IDMapping `json:"gids"`
}

// Namespaces is CRI's NamespaceOption.
type Namespaces struct {
	Network  NamespaceMode  `json:"network"`
	PID      NamespaceMode  `json:"pid"`
	IPC      NamespaceMode  `json:"ipc"`
	TargetID string         `json:"targetID,omitempty"` // container whose pid namespace is joined, for ModeTarget
	User     *UserNamespace `json:"user,omitempty"`
}

// SELinux is an SELinux label's parts.
type SELinux struct {
	User, Role, Type, Level string
}

// ProfileType says where a security profile comes from (CRI SecurityProfile).
type ProfileType string

// The security profile types of CRI.
const (
	ProfileRuntimeDefault ProfileType = "RuntimeDefault"
	ProfileUnconfined     ProfileType = "Unconfined"
	ProfileLocalhost      ProfileType = "Localhost"
)

// Profile is a seccomp or AppArmor profile; Ref is a file (seccomp) or a name (AppArmor) for ProfileLocalhost.
type Profile struct {
	Type ProfileType `json:"type"`
	Ref  string      `json:"ref,omitempty"`
}

// DNS is what goes to /etc/resolv.conf.
type DNS struct {
	Servers  []string `json:"servers,omitempty"`
	Searches []string `json:"searches,omitempty"`
	Options  []string `json:"options,omitempty"`
}

// PortMapping is one port of the host that leads to one of the pod's.
type PortMapping struct {
	Protocol      string `json:"protocol"` // "tcp", "udp", "sctp"
	ContainerPort int32  `json:"containerPort"`
	HostPort      int32  `json:"hostPort"`
	HostIP        string `json:"hostIP,omitempty"`
}

// SandboxConfig is what RunPodSandbox asked for.
type SandboxConfig struct {
	Name      string `json:"name"`
	UID       string `json:"uid"`
	Namespace string `json:"namespace"`
	Attempt   uint32 `json:"attempt"`

	Hostname       string            `json:"hostname,omitempty"`
	LogDirectory   string            `json:"logDirectory,omitempty"`
	DNS            *DNS              `json:"dns,omitempty"` // nil: the host's resolv.conf
	PortMappings   []PortMapping     `json:"portMappings,omitempty"`
	Labels         map[string]string `json:"labels,omitempty"`
	Annotations    map[string]string `json:"annotations,omitempty"`
	CgroupParent   string            `json:"cgroupParent,omitempty"`
	Sysctls        map[string]string `json:"sysctls,omitempty"`
	RuntimeHandler string            `json:"runtimeHandler,omitempty"`

	Namespaces         Namespaces `json:"namespaces"`
	Privileged         bool       `json:"privileged,omitempty"`
	ReadonlyRootfs     bool       `json:"readonlyRootfs,omitempty"`
	RunAsUser          *int64     `json:"runAsUser,omitempty"`
	RunAsGroup         *int64     `json:"runAsGroup,omitempty"`
	SupplementalGroups []int64    `json:"supplementalGroups,omitempty"`
	SELinux            *SELinux   `json:"selinux,omitempty"`
	Seccomp            *Profile   `json:"seccomp,omitempty"`
	AppArmor           *Profile   `json:"apparmor,omitempty"`
	Overhead           *Resources `json:"overhead,omitempty"`
	Resources          *Resources `json:"resources,omitempty"`
}

// SandboxState is the state of a sandbox's record.
type SandboxState string

// A sandbox being made is in no list; NotReady is CRI's SANDBOX_NOTREADY.
const (
	SandboxCreating SandboxState = "creating"
	SandboxReady    SandboxState = "ready"
	SandboxNotReady SandboxState = "notready"
)

// Sandbox is the durable record of a pod sandbox.
type Sandbox struct {
	Schema    int           `json:"schema"` // see Schema
	ID        string        `json:"id"`
	CreatedAt time.Time     `json:"createdAt"`
	State     SandboxState  `json:"state"`
	Config    SandboxConfig `json:"config"`
	// BootID is the kernel's boot ID at creation: after a reboot the namespaces are gone.
	BootID string `json:"bootID"`
	// RequestDigest identifies the request, to recognise a retry.
	RequestDigest string `json:"requestDigest"`
	// IPs are the pod's addresses, the primary one first; empty on the host network.
	IPs []string `json:"ips,omitempty"`
	// CNIResult is the JSON of CNI ADD, for verbose status.
	CNIResult []byte `json:"cniResult,omitempty"`
	// NetworkDown says that CNI DEL succeeded (or was never needed).
	NetworkDown bool `json:"networkDown,omitempty"`
	// History has the generations whose containers are removed, oldest first. It is replaced, never written to.
	History []Generation `json:"history,omitempty"`
}
