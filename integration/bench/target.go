package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// target is a runtime that is measured.
type target struct {
	name, version string // version "": the one that it tells
	runtime       runtime.RuntimeServiceClient
	images        runtime.ImageServiceClient
	cgroup        string                // folder of its pods' cgroups
	processes     func() ([]int, error) // that it needs: daemon, shims, pause processes
}

// ready checks the runtime and pulls the images that all measurements use.
func (t *target) ready(ctx context.Context) error {
	v, err := t.runtime.Version(ctx, &runtime.VersionRequest{})
	if err != nil {
		return fmt.Errorf("%s: Version: %w", t.name, err)
	}
	if t.version == "" {
		t.version = v.RuntimeVersion
	}
	for _, image := range []string{imageOld, imageNew} {
		if err := t.pull(ctx, image); err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
	}
	return nil
}

// pod is a sandbox with at most one container that counts.
type pod struct {
	t         *target
	config    *runtime.PodSandboxConfig
	id        string
	container string
}

// podConfig is what a kubelet would ask for.
func (b *bench) podConfig(t *target, hostNetwork bool) (*runtime.PodSandboxConfig, error) {
	b.mu.Lock()
	b.serial++
	uid := fmt.Sprintf("%s-%d", b.lab.Name, b.serial)
	b.mu.Unlock()
	dir := b.logDir(uid)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	options := &runtime.NamespaceOption{Pid: runtime.NamespaceMode_CONTAINER}
	config := &runtime.PodSandboxConfig{
		Metadata: &runtime.PodSandboxMetadata{Name: uid, Uid: uid, Namespace: "bench"}, LogDirectory: dir, Hostname: "bench",
		Linux: &runtime.LinuxPodSandboxConfig{CgroupParent: t.cgroup + "/" + uid, SecurityContext: &runtime.LinuxSandboxSecurityContext{NamespaceOptions: options}},
	}
	if hostNetwork {
		options.Network, config.Hostname = runtime.NamespaceMode_NODE, ""
	}
	return config, nil
}

// sandbox runs a pod without containers.
func (b *bench) sandbox(ctx context.Context, t *target, hostNetwork bool) (*pod, error) {
	config, err := b.podConfig(t, hostNetwork)
	if err != nil {
		return nil, err
	}
	r, err := t.runtime.RunPodSandbox(ctx, &runtime.RunPodSandboxRequest{Config: config})
	if err != nil {
		return nil, fmt.Errorf("RunPodSandbox: %w", err)
	}
	return &pod{t: t, config: config, id: r.PodSandboxId}, nil
}

// up runs a pod with one container that sleeps.
func (b *bench) up(ctx context.Context, t *target, hostNetwork bool) (*pod, error) {
	p, err := b.sandbox(ctx, t, hostNetwork)
	if err != nil {
		return nil, err
	}
	if p.container, err = p.create(ctx, container("app", imageOld, 0)); err != nil {
		return nil, err
	}
	return p, p.start(ctx, p.container)
}

// container is what a kubelet would ask for a container; without a command it sleeps.
func container(name, image string, attempt uint32, command ...string) *runtime.ContainerConfig {
	if len(command) == 0 {
		command = []string{"sleep", "1000000"}
	}
	return &runtime.ContainerConfig{
		Metadata: &runtime.ContainerMetadata{Name: name, Attempt: attempt},
		Image:    &runtime.ImageSpec{Image: image, UserSpecifiedImage: image}, Command: command, LogPath: fmt.Sprintf("%s_%d.log", name, attempt),
		Annotations: map[string]string{"io.kubernetes.container.hash": fmt.Sprintf("%x", attempt+1), "io.kubernetes.container.restartCount": fmt.Sprint(attempt)},
		Linux: &runtime.LinuxContainerConfig{
			Resources: &runtime.LinuxContainerResources{CpuShares: 100, MemoryLimitInBytes: 128 << 20},
		},
	}
}

func (p *pod) create(ctx context.Context, c *runtime.ContainerConfig) (string, error) {
	options := p.config.Linux.SecurityContext.NamespaceOptions
	c.Linux.SecurityContext = &runtime.LinuxContainerSecurityContext{NamespaceOptions: options}
	r, err := p.t.runtime.CreateContainer(ctx, &runtime.CreateContainerRequest{PodSandboxId: p.id, Config: c, SandboxConfig: p.config})
	if err != nil {
		return "", fmt.Errorf("CreateContainer: %w", err)
	}
	return r.ContainerId, nil
}

func (p *pod) start(ctx context.Context, id string) error {
	_, err := p.t.runtime.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: id})
	return named("StartContainer", err)
}

func (p *pod) stop(ctx context.Context, id string) error {
	_, err := p.t.runtime.StopContainer(ctx, &runtime.StopContainerRequest{ContainerId: id})
	return named("StopContainer", err)
}

func (p *pod) remove(ctx context.Context, id string) error {
	_, err := p.t.runtime.RemoveContainer(ctx, &runtime.RemoveContainerRequest{ContainerId: id})
	return named("RemoveContainer", err)
}

func (p *pod) stopSandbox(ctx context.Context) error {
	_, err := p.t.runtime.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: p.id})
	return named("StopPodSandbox", err)
}

func (p *pod) removeSandbox(ctx context.Context) error {
	_, err := p.t.runtime.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: p.id})
	return named("RemovePodSandbox", err)
}

// down takes the pod away, with whatever runs in it.
func (p *pod) down(ctx context.Context) error {
	if err := p.stopSandbox(ctx); err != nil {
		return err
	}
	if err := p.removeSandbox(ctx); err != nil {
		return err
	}
	p.removeCgroup()
	return nil
}

// removeCgroup does what a kubelet does after a pod. What is busy still goes with the lab.
func (p *pod) removeCgroup() {
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		dirs, _ := filepath.Glob(pattern + p.config.GetLinux().GetCgroupParent())
		for _, dir := range dirs {
			_ = os.Remove(dir)
		}
	}
}

func (t *target) pull(ctx context.Context, image string) error {
	_, err := t.images.PullImage(ctx, &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: image}})
	return named("PullImage "+image, err)
}

func (t *target) removeImage(ctx context.Context, image string) error {
	_, err := t.images.RemoveImage(ctx, &runtime.RemoveImageRequest{Image: &runtime.ImageSpec{Image: image}})
	return named("RemoveImage "+image, err)
}

func named(call string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", call, err)
	}
	return nil
}

// step is one call and what it is called in the report; without a name it is not noted.
type step struct {
	op string
	fn func() error
}

// steps runs calls one after the other, notes how long each took, and under total, where it has a name, how long all took.
func (t turn) steps(total string, calls ...step) error {
	began := time.Now()
	for _, c := range calls {
		if err := t.timed(c.op, c.fn); err != nil {
			return err
		}
	}
	if total != "" {
		t.add(t.name, total, time.Since(began))
	}
	return nil
}

func (t turn) timed(op string, fn func() error) error {
	began := time.Now()
	err := fn()
	if err == nil && op != "" {
		t.add(t.name, op, time.Since(began))
	}
	return err
}

// withPods keeps so many pods up while fn runs.
func (b *bench) withPods(ctx context.Context, t *target, count int, hostNetwork bool, fn func([]*pod) error) (err error) {
	var pods []*pod
	defer func() {
		for _, p := range pods {
			err = errors.Join(err, p.down(context.WithoutCancel(ctx)))
		}
	}()
	for range count {
		p, err := b.up(ctx, t, hostNetwork)
		if err != nil {
			return err
		}
		pods = append(pods, p)
	}
	return fn(pods)
}
