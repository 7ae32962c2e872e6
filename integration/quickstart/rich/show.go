package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/example"
	"github.com/cri-pouch/cri-pouch/integration/lab"
	"github.com/cri-pouch/cri-pouch/integration/stage"
)

// show is the example's pod and what happens to it.
type show struct {
	lab     *lab.Lab
	node    *example.Node
	pod     *runtime.PodSandboxConfig
	spec    example.Container // its container, as the manifest has it at the moment
	mode    string
	key     string // path of the key to log in with, empty where there is no sshd
	podID   string
	ip      string
	web     string // the container's ID
	attempt uint32
}

// newShow puts a key that was just made into the place of the example's.
func newShow(l *lab.Lab, e *example.Example) (*show, error) {
	s := &show{lab: l, spec: e.Pod.Spec.Containers[0]}
	s.mode = e.Pod.Metadata.Annotations["rich.cri-pouch.io/mode."+s.spec.Name]
	if keys, ok := e.ConfigMaps["shop-keys"]; ok {
		s.key = filepath.Join(l.Dir, "id_ed25519")
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "quickstart", "-f", s.key).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("make a key (apt-get install openssh-client): %w: %s", err, out)
		}
		public, err := os.ReadFile(s.key + ".pub")
		if err != nil {
			return nil, err
		}
		keys.Data["ops"] = string(public)
	}
	s.node = &example.Node{Example: e, UID: l.Name, Dir: filepath.Join(l.Dir, "volumes"), LogDir: l.LogDir(), CgroupParent: l.CgroupParent()}
	s.pod = s.node.Sandbox()
	return s, s.node.MakeVolumes()
}

// publish builds the image of the manifest and the one after it, and leads their registry's name to the lab's.
func (s *show) publish(images string) error {
	registry, rest, _ := strings.Cut(s.spec.Image, "/")
	for _, version := range []string{"1", "2"} {
		img, err := s.node.Example.Build(images, func(f *lab.File) {
			f.Content = bytes.ReplaceAll(f.Content, []byte("version 1"), []byte("version "+version))
		})
		if errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("%w: build it by integration/scripts/rich-images.sh", err)
		}
		if err != nil {
			return err
		}
		if err := s.lab.Images.Push(strings.Replace(rest, ":1", ":"+version, 1), img); err != nil {
			return err
		}
	}
	stage.Step("images %s and its version 2 built from Debian's packages as the Dockerfile says, served on %s", s.spec.Image, s.lab.Images.Addr)
	return s.lab.Images.WriteHosts(s.lab.RegistryDir(), registry)
}

// bringUp runs the pod and waits for its page.
func (s *show) bringUp(ctx context.Context) error {
	r, err := s.lab.Daemon.Runtime.RunPodSandbox(ctx, &runtime.RunPodSandboxRequest{Config: s.pod})
	if err != nil {
		return fmt.Errorf("run the pod's sandbox: %w", err)
	}
	s.podID = r.PodSandboxId
	pod, err := s.lab.Daemon.Runtime.PodSandboxStatus(ctx, &runtime.PodSandboxStatusRequest{PodSandboxId: s.podID})
	if err != nil {
		return fmt.Errorf("status of the pod: %w", err)
	}
	s.ip = pod.Status.Network.GetIp()
	begin, err := s.start(ctx)
	if err != nil {
		return err
	}
	page, _, err := s.await(ctx, "version 1", time.Now())
	if status, _ := s.status(ctx, s.web); status.GetState() == runtime.ContainerState_CONTAINER_EXITED {
		return fmt.Errorf("the container ended with code %d, %s: %s", status.ExitCode, status.Reason, status.Message)
	}
	if err != nil {
		return err
	}
	stage.Step("pod %s is up, the application answered %.1f s after StartContainer: %s", s.pod.Metadata.Name, time.Since(begin).Seconds(), page)
	return nil
}

// wait says how to look at the pod, until the user is done. Whatever he made meanwhile goes with the lab.
func (s *show) wait(ctx context.Context) {
	stage.Step("until Ctrl-C:\n      export CRI_POUCH_SOCKET=%s\n      ./bin/cri-pouch exec -it %s bash", s.lab.Socket(), s.spec.Name)
	if s.key != "" {
		fmt.Printf("      ssh -i %s ops@%s\n", s.key, s.ip)
	}
	<-ctx.Done()
}

// start pulls, creates and starts the container and gives the time at which the start began.
func (s *show) start(ctx context.Context) (begin time.Time, err error) {
	config, err := s.node.Container(s.pod, s.spec, s.attempt)
	if err != nil {
		return begin, err
	}
	if _, err := s.lab.Daemon.Images.PullImage(ctx, &runtime.PullImageRequest{Image: config.Image, SandboxConfig: s.pod}); err != nil {
		return begin, fmt.Errorf("pull %s: %w", s.spec.Image, err)
	}
	r, err := s.lab.Daemon.Runtime.CreateContainer(ctx, &runtime.CreateContainerRequest{PodSandboxId: s.podID, SandboxConfig: s.pod, Config: config})
	if err != nil {
		return begin, fmt.Errorf("create container %s: %w", s.spec.Name, err)
	}
	s.web, begin = r.ContainerId, time.Now()
	if _, err := s.lab.Daemon.Runtime.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: s.web}); err != nil {
		return begin, fmt.Errorf("start container %s: %w", s.spec.Name, err)
	}
	return begin, nil
}

// outage is how long a replacement left users and operators without the container.
type outage struct{ page, container time.Duration }

// replace exchanges the container for its next version in the kubelet's order: stop, pull, create, start.
func (s *show) replace(ctx context.Context) (o outage, err error) {
	old, last := s.web, time.Now()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		gap time.Duration
		err error
	}
	answered := make(chan answer, 1)
	go func() {
		_, gap, err := s.await(ctx, "version 2", last)
		answered <- answer{gap, err}
	}()
	if err := s.stop(ctx); err != nil {
		return o, err
	}
	s.spec.Image = strings.Replace(s.spec.Image, ":1", ":2", 1)
	s.attempt++
	if _, err := s.start(ctx); err != nil {
		return o, err
	}
	a := <-answered
	if a.err != nil {
		return o, a.err
	}
	was, err := s.status(ctx, old)
	if err != nil {
		return o, err
	}
	now, err := s.status(ctx, s.web)
	if err != nil {
		return o, err
	}
	if _, err := s.lab.Daemon.Runtime.RemoveContainer(ctx, &runtime.RemoveContainerRequest{ContainerId: old}); err != nil {
		return o, fmt.Errorf("remove the old container: %w", err)
	}
	stage.Step("container %s replaced: %s is in", s.spec.Name, s.spec.Image)
	return outage{a.gap, time.Duration(now.StartedAt - was.FinishedAt)}, nil
}

// stop ends the container as the kubelet does, with the manifest's grace period.
func (s *show) stop(ctx context.Context) error {
	grace := s.node.Example.Pod.Spec.TerminationGracePeriodSeconds
	if _, err := s.lab.Daemon.Runtime.StopContainer(ctx, &runtime.StopContainerRequest{ContainerId: s.web, Timeout: grace}); err != nil {
		return fmt.Errorf("stop the container: %w", err)
	}
	return nil
}

// shutDown ends the container and shows what it ended with.
func (s *show) shutDown(ctx context.Context) error {
	begin := time.Now()
	if err := s.stop(ctx); err != nil {
		return err
	}
	took := time.Since(begin)
	status, err := s.status(ctx, s.web)
	if err != nil {
		return err
	}
	if status.State != runtime.ContainerState_CONTAINER_EXITED || status.ExitCode != 0 {
		return fmt.Errorf("the container is %s with code %d, %s: %s", status.State, status.ExitCode, status.Reason, status.Message)
	}
	stage.Step("container %s stopped in %.1f s, exit code %d of the application", s.spec.Name, took.Seconds(), status.ExitCode)
	return s.checkShutdown()
}

// remove removes the pod and its images.
func (s *show) remove(ctx context.Context) error {
	return s.lab.TakeDown(ctx, s.podID, s.node.Example.Pod.Spec.Containers[0].Image, s.spec.Image)
}

// await asks for the page of the manifest's probe until it holds want, and gives it with the time since the last other
// answer (since, where there is none).
func (s *show) await(ctx context.Context, want string, since time.Time) (string, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for ; ctx.Err() == nil; time.Sleep(5 * time.Millisecond) {
		page, err := s.get(s.spec.ReadinessProbe.HTTPGet.Path)
		if err == nil && strings.Contains(page, want) {
			return page, time.Since(since), nil
		}
		if err == nil {
			since = time.Now()
		}
	}
	return "", 0, fmt.Errorf("http://%s never said %q", s.ip, want)
}

// get gives what the application answers.
func (s *show) get(path string) (string, error) {
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := client.Get(fmt.Sprintf("http://%s:%d%s", s.ip, s.spec.ReadinessProbe.HTTPGet.Port, path))
	if err != nil {
		return "", err
	}
	defer func() { _ = r.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(r.Body, 1<<16))
	if err == nil && r.StatusCode != http.StatusOK {
		err = errors.New(r.Status)
	}
	return strings.TrimSpace(string(b)), err
}

func (s *show) status(ctx context.Context, id string) (*runtime.ContainerStatus, error) {
	r, err := s.lab.Daemon.Runtime.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		return nil, fmt.Errorf("status of container %s: %w", id, err)
	}
	return r.Status, nil
}
