package spec

import (
	"context"
	"fmt"
	"sync/atomic"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/containerd/errdefs"

	"github.com/cri-pouch/cri-pouch/cri/model"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

// Node is what the builder must know of the node. DetectNode fills in all but SystemdCgroup.
type Node struct {
	SystemdCgroup   bool
	CgroupV2        bool
	CgroupFlags     []string // of the v2 hierarchy as a whole ("nsdelegate")
	AppArmor        bool
	SELinux         bool
	SeccompRoot     string // folder of localhost profiles given by relative names
	DefaultAppArmor string // name of the loaded default profile; empty: there is none

	SwapLimit bool // the memory controller can limit swap
	HugeTLB   bool // there is a hugetlb controller
	// RecursiveReadOnly: the kernel can make a mount read-only with all that is mounted below it (mount_setattr(2), Linux 5.12).
	RecursiveReadOnly bool
	AllCaps           []string // what a privileged container gets ("CAP_CHOWN", ...); empty: what this process may give

	// CreateMissingHostPaths makes an absent host path of a mount a folder, as other runtimes do; without it the mount is refused.
	CreateMissingHostPaths bool
}

// Builder builds specifications. It is safe for concurrent use.
type Builder struct {
	node     Node
	host     host
	building atomic.Int32
}

// maxBuilding bounds the builds under way. One takes no time, unless it looks at a host path whose file system does not answer: it
// then keeps a thread for as long as that lasts, also when its pod is gone, and Go's runtime ends a program at 10,000 threads.
const maxBuilding = 1024

// NewBuilder makes a Builder for the node.
func NewBuilder(n Node) *Builder {
	if len(n.AllCaps) == 0 {
		n.AllCaps = givableCapabilities()
	}
	return &Builder{node: n, host: thisHost()}
}

// RecursiveReadOnly reports whether containers can have mounts that are read-only with all that is mounted below them.
func (b *Builder) RecursiveReadOnly() bool { return b.node.RecursiveReadOnly }

// Build gives the specification for in. Errors are InvalidArgument where request or image are at fault, FailedPrecondition
// where the node lacks something, and name what and why.
func (b *Builder) Build(ctx context.Context, in Input) (Output, error) {
	defer b.building.Add(-1)
	if b.building.Add(1) > maxBuilding {
		return Output{}, fmt.Errorf("specification of container %s: %d creations wait for host paths whose file systems do not answer, mend or unmount those: %w", in.ID, maxBuilding, errdefs.ErrResourceExhausted)
	}
	out, err := b.build(ctx, in)
	if err != nil {
		return Output{}, fmt.Errorf("specification of container %s: %w", in.ID, err)
	}
	return out, nil
}

func (b *Builder) build(_ context.Context, in Input) (Output, error) {
	if err := agree(in); err != nil {
		return Output{}, err
	}
	sp := &specs.Spec{
		Version:     specs.Version,
		Root:        &specs.Root{Path: in.Rootfs, Readonly: in.Config.Security.ReadonlyRootfs},
		Annotations: annotations(in),
		Linux:       &specs.Linux{Resources: &specs.LinuxResources{}},
	}
	who, err := resolveUser(in)
	if err != nil {
		return Output{}, err
	}
	if sp.Process, err = b.process(in, who); err != nil {
		return Output{}, err
	}
	stop, err := stopSignal(in)
	if err != nil {
		return Output{}, err
	}
	for _, part := range []func(Input, *specs.Spec) error{
		b.namespaces, b.cgroup, b.devices, b.mounts, b.security,
	} {
		if err := part(in, sp); err != nil {
			return Output{}, err
		}
	}
	return Output{Spec: sp, User: who, Argv: sp.Process.Args, StopSignal: stop}, nil
}

// agree refuses a container that contradicts its pod: it lives in the pod's namespaces, whatever it asks for.
func agree(in Input) error {
	pod, own := in.Sandbox.Namespaces, in.Config.Security.Namespaces
	if own.Network == model.ModeNode && pod.Network != model.ModeNode {
		return fmt.Errorf("network namespace of the node asked for in a pod that has its own: %w", errdefs.ErrInvalidArgument)
	}
	if own.IPC == model.ModeNode && pod.IPC != model.ModeNode {
		return fmt.Errorf("IPC namespace of the node asked for in a pod that has its own: %w", errdefs.ErrInvalidArgument)
	}
	if own.User != nil && (pod.User == nil || !sameMappings(own.User.UIDs, pod.User.UIDs) || !sameMappings(own.User.GIDs, pod.User.GIDs)) {
		return fmt.Errorf("user namespace asked for is not the pod's: %w", errdefs.ErrInvalidArgument)
	}
	if in.Config.Security.Privileged && !in.Sandbox.Privileged {
		return fmt.Errorf("privileged container in a sandbox that was not made for one (linux.security_context.privileged): %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

func sameMappings(a, b []model.IDMapping) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// Annotations of a specification, known to NRI plugins and node tools. Nothing of the pod's own annotations is in them:
// runtimes read settings of systemd units, among others, from such keys (CVE-2024-3154).
const (
	annotationType             = "io.kubernetes.cri.container-type"
	annotationSandboxID        = task.PodAnnotation
	annotationSandboxName      = "io.kubernetes.cri.sandbox-name"
	annotationSandboxNamespace = "io.kubernetes.cri.sandbox-namespace"
	annotationSandboxUID       = "io.kubernetes.cri.sandbox-uid"
	annotationName             = "io.kubernetes.cri.container-name"
	annotationImage            = "io.kubernetes.cri.image-name"
)

func annotations(in Input) map[string]string {
	m := sandboxAnnotations(in.SandboxID, in.Sandbox)
	m[annotationType], m[annotationName], m[annotationImage] = "container", in.Config.Name, in.Config.UserImage
	return m
}

func sandboxAnnotations(id string, s model.SandboxConfig) map[string]string {
	return map[string]string{
		annotationType: "sandbox", annotationSandboxID: id, annotationSandboxName: s.Name,
		annotationSandboxNamespace: s.Namespace, annotationSandboxUID: s.UID,
	}
}
