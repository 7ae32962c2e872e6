package client

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
	"github.com/cri-pouch/cri-pouch/internal/undo"
)

// undoLimit is how long taking back a half-done run may take.
const undoLimit = time.Minute

// Labels that the kubelet gives its pods and containers, and that tools look for (k8s.io/kubelet/pkg/types).
const (
	labelPodName       = "io.kubernetes.pod.name"
	labelPodNamespace  = "io.kubernetes.pod.namespace"
	labelPodUID        = "io.kubernetes.pod.uid"
	labelContainerName = "io.kubernetes.container.name"
)

// RunOptions say what to run.
type RunOptions struct {
	Image       string
	Command     []string // replaces the image's ENTRYPOINT
	Args        []string // replace the image's CMD
	Pod         string   // name; empty: the container's
	Namespace   string
	Name        string // of the container; empty: made up
	Env         []string
	Mounts      []*runtime.Mount
	HostNetwork bool
	// CgroupParent is the parent of the pod's cgroup, in the notation of the node's driver.
	CgroupParent        string
	Labels, Annotations map[string]string // of pod and container
	LogRoot             string            // folder below which each pod made here has a folder for its logs
	Handler             string
	Progress            func(*pouchv1.Pull)
}

// RunResult is what runs.
type RunResult struct {
	ContainerID, PodID string
	Name, Pod          string
	NewPod             bool
}

// Run pulls the image if it is missing, makes the pod if there is none of that name, and creates and starts the container.
// If a step fails, what the steps before it made is removed, except the image.
func (c *Client) Run(ctx context.Context, o RunOptions) (result RunResult, err error) {
	if err := c.ensureImage(ctx, o); err != nil {
		return result, err
	}
	if o.Name == "" {
		o.Name = madeUpName(o.Image)
	}
	if o.Pod == "" {
		o.Pod = o.Name
	}
	var steps undo.Stack
	defer func() {
		if err == nil {
			return
		}
		if undoErr := steps.Run(ctx, undoLimit); undoErr != nil {
			err = fmt.Errorf("%w (and what was made could not be removed: %v)", err, undoErr)
		}
	}()
	result.Name, result.Pod = o.Name, o.Pod
	result.PodID, result.NewPod, err = c.ensurePod(ctx, o, &steps)
	if err != nil {
		return result, err
	}
	config, err := c.podConfig(ctx, result.PodID, o)
	if err != nil {
		return result, err
	}
	created, err := c.Runtime.CreateContainer(ctx, &runtime.CreateContainerRequest{
		PodSandboxId: result.PodID, Config: containerConfig(o, config), SandboxConfig: config,
	})
	if err != nil {
		return result, err
	}
	result.ContainerID = created.GetContainerId()
	steps.Add("remove container", func(ctx context.Context) error {
		_, err := c.Runtime.RemoveContainer(ctx, &runtime.RemoveContainerRequest{ContainerId: result.ContainerID})
		return err
	})
	_, err = c.Runtime.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: result.ContainerID})
	return result, err
}

func (c *Client) ensureImage(ctx context.Context, o RunOptions) error {
	_, err := c.Image(ctx, o.Image, false)
	if _, missing := errors.AsType[*NotFoundError](err); missing {
		_, err = c.Pull(ctx, o.Image, nil, o.Progress)
	}
	return err
}

// ensurePod finds the ready pod of that name, or makes one.
func (c *Client) ensurePod(ctx context.Context, o RunOptions, steps *undo.Stack) (id string, made bool, err error) {
	pods, err := c.Runtime.ListPodSandbox(ctx, &runtime.ListPodSandboxRequest{})
	if err != nil {
		return "", false, err
	}
	for _, p := range pods.GetItems() {
		if m := p.GetMetadata(); m.GetName() != o.Pod || m.GetNamespace() != o.Namespace {
			continue
		}
		if p.GetState() != runtime.PodSandboxState_SANDBOX_READY {
			return "", false, fmt.Errorf("pod %s is there and stopped: remove it with `cri-pouch pods rm %s`, or name another --pod", o.Pod, ShortID(p.GetId()))
		}
		if o.HostNetwork {
			return "", false, fmt.Errorf("pod %s is there already: --host-network is for a new pod", o.Pod)
		}
		return p.GetId(), false, nil
	}
	config := newPodConfig(o)
	steps.Add("remove log folder", func(context.Context) error { return os.RemoveAll(config.GetLogDirectory()) })
	resp, err := c.Runtime.RunPodSandbox(ctx, &runtime.RunPodSandboxRequest{Config: config, RuntimeHandler: o.Handler})
	if err != nil {
		return "", false, err
	}
	id = resp.GetPodSandboxId()
	steps.Add("remove pod", func(ctx context.Context) error { return c.RemovePod(ctx, id) })
	return id, true, nil
}

// RemovePod stops and removes a pod with its containers.
func (c *Client) RemovePod(ctx context.Context, id string) error {
	if _, err := c.Runtime.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: id}); err != nil && status.Code(err) != codes.NotFound {
		return err
	}
	_, err := c.Runtime.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: id})
	return err
}

func newPodConfig(o RunOptions) *runtime.PodSandboxConfig {
	uid := randomHex(16)
	c := &runtime.PodSandboxConfig{
		Metadata:     &runtime.PodSandboxMetadata{Name: o.Pod, Namespace: o.Namespace, Uid: uid},
		Hostname:     hostname(o.Pod),
		LogDirectory: PodLogDir(o.LogRoot, o.Namespace, o.Pod, uid),
		Labels:       map[string]string{labelPodName: o.Pod, labelPodNamespace: o.Namespace, labelPodUID: uid},
		Annotations:  o.Annotations,
		Linux: &runtime.LinuxPodSandboxConfig{CgroupParent: o.CgroupParent, SecurityContext: &runtime.LinuxSandboxSecurityContext{
			NamespaceOptions: namespaces(o.HostNetwork), Seccomp: defaultSeccomp(),
		}},
	}
	if o.HostNetwork {
		c.Hostname = ""
	}
	for k, v := range o.Labels {
		c.Labels[k] = v
	}
	return c
}

// podConfig gives, for a pod that is there, the configuration that CreateContainer asks for.
func (c *Client) podConfig(ctx context.Context, id string, o RunOptions) (*runtime.PodSandboxConfig, error) {
	resp, err := c.Runtime.PodSandboxStatus(ctx, &runtime.PodSandboxStatusRequest{PodSandboxId: id})
	if err != nil {
		return nil, err
	}
	s := resp.GetStatus()
	m := s.GetMetadata()
	hostNetwork := s.GetLinux().GetNamespaces().GetOptions().GetNetwork() == runtime.NamespaceMode_NODE
	config := &runtime.PodSandboxConfig{
		Metadata: m, Labels: s.GetLabels(), Annotations: s.GetAnnotations(),
		LogDirectory: PodLogDir(o.LogRoot, m.GetNamespace(), m.GetName(), m.GetUid()),
		Linux: &runtime.LinuxPodSandboxConfig{CgroupParent: o.CgroupParent, SecurityContext: &runtime.LinuxSandboxSecurityContext{
			NamespaceOptions: namespaces(hostNetwork), Seccomp: defaultSeccomp(),
		}},
	}
	if !hostNetwork {
		config.Hostname = hostname(m.GetName())
	}
	return config, nil
}

func containerConfig(o RunOptions, pod *runtime.PodSandboxConfig) *runtime.ContainerConfig {
	c := &runtime.ContainerConfig{
		Metadata:    &runtime.ContainerMetadata{Name: o.Name},
		Image:       &runtime.ImageSpec{Image: o.Image, UserSpecifiedImage: o.Image},
		Command:     o.Command,
		Args:        o.Args,
		Mounts:      o.Mounts,
		Annotations: o.Annotations,
		LogPath:     o.Name + "_0.log",
		Labels: map[string]string{
			labelPodName: pod.GetMetadata().GetName(), labelPodNamespace: pod.GetMetadata().GetNamespace(),
			labelPodUID: pod.GetMetadata().GetUid(), labelContainerName: o.Name,
		},
		Linux: &runtime.LinuxContainerConfig{
			Resources: &runtime.LinuxContainerResources{},
			SecurityContext: &runtime.LinuxContainerSecurityContext{
				NamespaceOptions: pod.GetLinux().GetSecurityContext().GetNamespaceOptions(), Seccomp: defaultSeccomp(),
				MaskedPaths: maskedPaths(), ReadonlyPaths: readonlyPaths(),
			},
		},
	}
	for _, e := range o.Env {
		k, v, _ := strings.Cut(e, "=")
		c.Envs = append(c.Envs, &runtime.KeyValue{Key: k, Value: []byte(v)})
	}
	for k, v := range o.Labels {
		c.Labels[k] = v
	}
	return c
}

func namespaces(hostNetwork bool) *runtime.NamespaceOption {
	n := &runtime.NamespaceOption{Pid: runtime.NamespaceMode_CONTAINER}
	if hostNetwork {
		n.Network = runtime.NamespaceMode_NODE
	}
	return n
}

func defaultSeccomp() *runtime.SecurityProfile {
	return &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_RuntimeDefault}
}

// maskedPaths and readonlyPaths are what a kubelet asks for where the pod says procMount Default.
func maskedPaths() []string {
	return []string{"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
		"/sys/devices/virtual/powercap"}
}

func readonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

// PodLogDir is where the logs of a pod made by Run are; the kubelet's layout below another root.
func PodLogDir(root, namespace, name, uid string) string {
	return filepath.Join(root, strings.ReplaceAll(namespace+"_"+name+"_"+uid, "/", "_"))
}

// madeUpName names a container after its image.
func madeUpName(image string) string {
	base := path.Base(image)
	if i := strings.IndexAny(base, ":@"); i >= 0 {
		base = base[:i]
	}
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(base))
	name = strings.Trim(name[:min(len(name), 40)], "-")
	if name == "" {
		name = "container"
	}
	return name + "-" + randomHex(3)
}

// hostname makes a host name (at most 63 bytes of letters, digits and hyphens) of a pod's name.
func hostname(pod string) string {
	h := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '.' {
			return r
		}
		return '-'
	}, pod)
	return strings.Trim(h[:min(len(h), 63)], "-.")
}

func randomHex(bytes int) string {
	b := make([]byte, bytes)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	return hex.EncodeToString(b)
}
