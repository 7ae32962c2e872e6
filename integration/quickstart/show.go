package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/lab"
	"github.com/cri-pouch/cri-pouch/integration/stage"
)

// show is the pod and what happens to it.
type show struct {
	lab    *lab.Lab
	pod    *runtime.PodSandboxConfig
	volume string
	podID  string
	web    string // the container that is replaced
	agent  string // the one beside it
}

// bringUp runs the pod with its two containers, as the kubelet does.
func (s *show) bringUp(ctx context.Context) error {
	s.volume = filepath.Join(s.lab.Dir, "volume")
	s.pod = &runtime.PodSandboxConfig{
		Metadata:     &runtime.PodSandboxMetadata{Name: "shop", Namespace: "default", Uid: s.lab.Name},
		Hostname:     "shop",
		LogDirectory: filepath.Join(s.lab.LogDir(), "shop"),
		Linux: &runtime.LinuxPodSandboxConfig{
			CgroupParent:    s.lab.CgroupParent(),
			SecurityContext: &runtime.LinuxSandboxSecurityContext{NamespaceOptions: namespaces()},
		},
	}
	for _, dir := range []string{s.volume, s.pod.LogDirectory} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	begin := time.Now()
	r, err := s.lab.Daemon.Runtime.RunPodSandbox(ctx, &runtime.RunPodSandboxRequest{Config: s.pod})
	if err != nil {
		return fmt.Errorf("run the pod's sandbox: %w", err)
	}
	s.podID = r.PodSandboxId
	if s.agent, err = s.run(ctx, "agent", "shop:1", 0, "sleep 100000"); err != nil {
		return err
	}
	if s.web, err = s.run(ctx, "web", "shop:1", 0, "echo written by version $(cat /version) > /data/note; sleep 100000"); err != nil {
		return err
	}
	stage.Step("pod shop with containers web and agent is up: %d ms", time.Since(begin).Milliseconds())
	return s.awaitNote(ctx)
}

// replace exchanges web for its next version in the kubelet's order: stop, pull, create, start. It gives the time
// without a running process, from the end of the old one to the start of the new one.
func (s *show) replace(ctx context.Context) (time.Duration, error) {
	old := s.web
	if _, err := s.lab.Daemon.Runtime.StopContainer(ctx, &runtime.StopContainerRequest{ContainerId: old, Timeout: 0}); err != nil {
		return 0, fmt.Errorf("stop the old container: %w", err)
	}
	var err error
	if s.web, err = s.run(ctx, "web", "shop:2", 1, "sleep 100000"); err != nil {
		return 0, err
	}
	was, err := s.status(ctx, old)
	if err != nil {
		return 0, err
	}
	now, err := s.status(ctx, s.web)
	if err != nil {
		return 0, err
	}
	if _, err := s.lab.Daemon.Runtime.RemoveContainer(ctx, &runtime.RemoveContainerRequest{ContainerId: old}); err != nil {
		return 0, fmt.Errorf("remove the old container: %w", err)
	}
	stage.Step("container web replaced: shop:1 is out, shop:2 is in")
	return time.Duration(now.StartedAt - was.FinishedAt), nil
}

// takeDown stops and removes the pod and both images.
func (s *show) takeDown(ctx context.Context) error {
	return s.lab.TakeDown(ctx, s.podID, s.lab.Ref("shop:1"), s.lab.Ref("shop:2"))
}

// run pulls, creates and starts a container and gives its ID.
func (s *show) run(ctx context.Context, name, tag string, attempt uint32, script string) (string, error) {
	image := &runtime.ImageSpec{Image: s.lab.Ref(tag), UserSpecifiedImage: s.lab.Ref(tag)}
	if _, err := s.lab.Daemon.Images.PullImage(ctx, &runtime.PullImageRequest{Image: image, SandboxConfig: s.pod}); err != nil {
		return "", fmt.Errorf("pull %s: %w", image.Image, err)
	}
	r, err := s.lab.Daemon.Runtime.CreateContainer(ctx, &runtime.CreateContainerRequest{
		PodSandboxId: s.podID, SandboxConfig: s.pod,
		Config: &runtime.ContainerConfig{
			Metadata: &runtime.ContainerMetadata{Name: name, Attempt: attempt},
			Image:    image, Command: []string{"sh", "-c", script}, LogPath: fmt.Sprintf("%s_%d.log", name, attempt),
			Mounts: []*runtime.Mount{{HostPath: s.volume, ContainerPath: "/data"}},
			Linux: &runtime.LinuxContainerConfig{
				SecurityContext: &runtime.LinuxContainerSecurityContext{NamespaceOptions: namespaces()},
			},
		},
	})
	if err != nil {
		return "", fmt.Errorf("create container %s: %w", name, err)
	}
	if _, err := s.lab.Daemon.Runtime.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: r.ContainerId}); err != nil {
		return "", fmt.Errorf("start container %s: %w", name, err)
	}
	return r.ContainerId, nil
}

// awaitNote waits until version 1 has written to the volume.
func (s *show) awaitNote(ctx context.Context) error {
	for ctx.Err() == nil {
		if b, err := os.ReadFile(filepath.Join(s.volume, "note")); err == nil && strings.HasSuffix(string(b), "\n") {
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	return fmt.Errorf("container web never wrote to its volume: %w", ctx.Err())
}

func (s *show) status(ctx context.Context, id string) (*runtime.ContainerStatus, error) {
	r, err := s.lab.Daemon.Runtime.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		return nil, fmt.Errorf("status of container %s: %w", id, err)
	}
	return r.Status, nil
}

// exec runs a command in a container and gives what it prints.
func (s *show) exec(ctx context.Context, id string, argv ...string) (string, error) {
	r, err := s.lab.Daemon.Runtime.ExecSync(ctx, &runtime.ExecSyncRequest{ContainerId: id, Cmd: argv, Timeout: 10})
	if err != nil {
		return "", fmt.Errorf("run %q in container %s: %w", argv, id, err)
	}
	if r.ExitCode != 0 {
		return "", fmt.Errorf("%q in container %s exits with %d: %s", argv, id, r.ExitCode, r.Stderr)
	}
	return strings.TrimSpace(string(r.Stdout)), nil
}

func namespaces() *runtime.NamespaceOption {
	return &runtime.NamespaceOption{Pid: runtime.NamespaceMode_CONTAINER}
}
