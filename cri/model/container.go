package model

import (
	"time"

	"github.com/cri-pouch/cri-pouch/internal/hookrun"
)

// Resources are CRI's LinuxContainerResources; zero means not set.
type Resources struct {
	CPUPeriod      int64             `json:"cpuPeriod,omitempty"`   // µs
	CPUQuota       int64             `json:"cpuQuota,omitempty"`    // µs per period
	CPUShares      int64             `json:"cpuShares,omitempty"`   // cgroup v1 shares
	MemoryLimit    int64             `json:"memoryLimit,omitempty"` // bytes
	MemorySwap     int64             `json:"memorySwap,omitempty"`  // bytes, memory and swap together
	OOMScoreAdj    int64             `json:"oomScoreAdj,omitempty"`
	CpusetCpus     string            `json:"cpusetCpus,omitempty"`
	CpusetMems     string            `json:"cpusetMems,omitempty"`
	HugepageLimits map[string]uint64 `json:"hugepageLimits,omitempty"` // page size ("2MB") to bytes
	Unified        map[string]string `json:"unified,omitempty"`        // cgroup v2 file to value
}

// Propagation is a mount's propagation (CRI MountPropagation).
type Propagation string

// The propagations of CRI.
const (
	PropagationPrivate         Propagation = "private"
	PropagationHostToContainer Propagation = "rslave"
	PropagationBidirectional   Propagation = "rshared"
)

// Mount is one host path seen in the container.
type Mount struct {
	ContainerPath     string      `json:"containerPath"`
	HostPath          string      `json:"hostPath"`
	Readonly          bool        `json:"readonly,omitempty"`
	RecursiveReadOnly bool        `json:"recursiveReadOnly,omitempty"`
	SELinuxRelabel    bool        `json:"selinuxRelabel,omitempty"`
	Propagation       Propagation `json:"propagation"`
	UIDMappings       []IDMapping `json:"uidMappings,omitempty"`
	GIDMappings       []IDMapping `json:"gidMappings,omitempty"`
}

// Device is one host device (or a folder of them) given to the container.
type Device struct {
	ContainerPath string `json:"containerPath"`
	HostPath      string `json:"hostPath"`
	Permissions   string `json:"permissions"` // of "rwm"
}

// Env is one variable; Value is bytes because CRI's is.
type Env struct {
	Key   string `json:"key"`
	Value []byte `json:"value"`
}

// Security is a container's security context.
type Security struct {
	AddCapabilities        []string   `json:"addCapabilities,omitempty"`
	DropCapabilities       []string   `json:"dropCapabilities,omitempty"`
	AddAmbientCapabilities []string   `json:"addAmbientCapabilities,omitempty"`
	Privileged             bool       `json:"privileged,omitempty"`
	Namespaces             Namespaces `json:"namespaces"`
	SELinux                *SELinux   `json:"selinux,omitempty"`
	RunAsUser              *int64     `json:"runAsUser,omitempty"`
	RunAsGroup             *int64     `json:"runAsGroup,omitempty"`
	RunAsUsername          string     `json:"runAsUsername,omitempty"`
	ReadonlyRootfs         bool       `json:"readonlyRootfs,omitempty"`
	SupplementalGroups     []int64    `json:"supplementalGroups,omitempty"`
	// StrictGroups is SupplementalGroupsPolicy Strict: the image's /etc/group adds nothing.
	StrictGroups  bool     `json:"strictGroups,omitempty"`
	NoNewPrivs    bool     `json:"noNewPrivs,omitempty"`
	MaskedPaths   []string `json:"maskedPaths,omitempty"`
	ReadonlyPaths []string `json:"readonlyPaths,omitempty"`
	Seccomp       *Profile `json:"seccomp,omitempty"`
	AppArmor      *Profile `json:"apparmor,omitempty"`
}

// ContainerConfig is what CreateContainer asked for.
type ContainerConfig struct {
	Name    string `json:"name"`
	Attempt uint32 `json:"attempt"`

	// ImageSpec is image.image of the request (the kubelet gives an image ID).
	ImageSpec string `json:"imageSpec"`
	// UserImage is user_specified_image, else ImageSpec: what status.image.image shows.
	UserImage        string            `json:"userImage"`
	ImageAnnotations map[string]string `json:"imageAnnotations,omitempty"`

	Command     []string          `json:"command,omitempty"`
	Args        []string          `json:"args,omitempty"`
	WorkingDir  string            `json:"workingDir,omitempty"`
	Envs        []Env             `json:"envs,omitempty"`
	Mounts      []Mount           `json:"mounts,omitempty"`
	Devices     []Device          `json:"devices,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	LogPath     string            `json:"logPath,omitempty"` // relative to the sandbox's log directory
	Stdin       bool              `json:"stdin,omitempty"`
	StdinOnce   bool              `json:"stdinOnce,omitempty"`
	TTY         bool              `json:"tty,omitempty"`
	StopSignal  string            `json:"stopSignal,omitempty"` // "SIGTERM"; empty: the image's, else SIGTERM

	Resources *Resources `json:"resources,omitempty"`
	Security  Security   `json:"security"`

	// Persist are the paths that the pod wants to outlive the container, and FreshVolumes that none does, by its annotations
	// when the container was created.
	Persist      []string `json:"persist,omitempty"`
	FreshVolumes bool     `json:"freshVolumes,omitempty"`
	// RichAnnotations are those of the pod's rich.cri-pouch.io annotations that say something of this container.
	RichAnnotations map[string]string `json:"richAnnotations,omitempty"`
	// HookAnnotations are those that declare the container's hooks.
	HookAnnotations map[string]string `json:"hookAnnotations,omitempty"`
}

// User is the identity that a container's first process got (CRI ContainerUser).
type User struct {
	UID                int64   `json:"uid"`
	GID                int64   `json:"gid"`
	SupplementalGroups []int64 `json:"supplementalGroups,omitempty"`
}

// End is how a container ended.
type End struct {
	StartedAt  time.Time `json:"startedAt,omitzero"`
	FinishedAt time.Time `json:"finishedAt"`
	ExitCode   int32     `json:"exitCode"`
	Reason     string    `json:"reason"` // Completed, Error, OOMKilled, StartError, Lost
	Message    string    `json:"message,omitempty"`
	// Hooks is what became of the container's hooks, in the order in which they ran.
	Hooks []hookrun.Result `json:"hooks,omitempty"`
}

// Rich says which init a rich container has. It is settled at creation.
type Rich struct {
	Mode string `json:"mode"` // systemd, sbin-init, dumb-init
	By   string `json:"by"`   // who chose it, in words
}

// Container is the durable record of a container. What cannot outlive a boot (pid, start time of a running
// one) is not in it: the shim knows.
type Container struct {
	Schema        int             `json:"schema"` // see Schema
	ID            string          `json:"id"`
	SandboxID     string          `json:"sandboxID"`
	CreatedAt     time.Time       `json:"createdAt"`
	Config        ContainerConfig `json:"config"`
	RequestDigest string          `json:"requestDigest"`
	// Image identity, fixed at creation.
	ImageID  string `json:"imageID"`  // sha256:… of the image's configuration
	ImageRef string `json:"imageRef"` // repo@sha256:…
	// Lineage is zero in records that are older than it.
	Lineage Lineage `json:"lineage,omitzero"`
	// Resolved at creation.
	User       User     `json:"user"`
	StopSignal string   `json:"stopSignal"`
	LogPath    string   `json:"logPath"` // absolute
	Argv       []string `json:"argv"`
	// Rich is nil for a container whose program is pid 1 itself.
	Rich *Rich `json:"rich,omitempty"`
	// End is set once the container has ended.
	End *End `json:"end,omitempty"`
}
