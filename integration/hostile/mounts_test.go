package hostile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/fusefs"
	"github.com/cri-pouch/cri-pouch/integration/harness"
	"github.com/cri-pouch/cri-pouch/internal/hookrun"
)

// hanging is a file system of the test's with a folder for a volume.
type hanging struct {
	*fusefs.FS
	folder string
}

func hangingVolume(t *testing.T) hanging {
	t.Helper()
	dir := t.TempDir()
	f, err := fusefs.Mount(dir, fusefs.Options{})
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip("needs /dev/fuse")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return hanging{f, filepath.Join(dir, fusefs.Folder)}
}

// The host path of a volume is on a file system that answers nobody: a FUSE server that its pod's author runs, or a server of files
// that is gone.
func TestAHostPathThatNeverAnswers(t *testing.T) {
	for what, answersFirst := range map[string]bool{"from the beginning": false, "from the start on": true} {
		t.Run(what, func(t *testing.T) {
			f := hangingVolume(t)
			n := start(t)
			b := newBystander(t, n)
			volume := func(c *runtime.ContainerConfig) {
				c.Mounts = append(c.Mounts, &runtime.Mount{HostPath: f.folder, ContainerPath: "/v"})
			}
			var pods []*harness.Pod
			var victims []*harness.Container
			for i := range crowd {
				pods = append(pods, n.RunPod(t))
				if answersFirst {
					victims = append(victims, pods[i].Create(t, "victim", volume))
				}
			}
			f.HangOn()
			answers := make([]error, crowd)
			done := held(crowd, func(i int) {
				ctx, cancel := context.WithTimeout(context.Background(), harness.Patience(4*time.Minute))
				defer cancel()
				if answersFirst {
					_, answers[i] = n.Daemon.Runtime.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: victims[i].ID})
					return
				}
				_, answers[i] = pods[i].TryCreate(ctx, pods[i].ContainerConfig("victim", volume))
			})
			for range 4 {
				b.check("while nothing answers")
			}
			if err := f.Abort(); err != nil {
				t.Fatal(err)
			}
			<-done
			for i, err := range answers {
				if err == nil {
					t.Errorf("container %d is mounted what does not answer", i)
				}
			}
			b.check("after the file system's end")
		})
	}
}

// A start whose process hangs in the kernel has failed when its time is over, and the container has not ended before that
// process has.
func TestNothingHasEndedWhileAProcessOfItLives(t *testing.T) {
	f := hangingVolume(t)
	n := start(t)
	b := newBystander(t, n)
	p := n.RunPod(t)
	c := p.Create(t, "victim", func(c *runtime.ContainerConfig) {
		c.Mounts = append(c.Mounts, &runtime.Mount{HostPath: f.folder, ContainerPath: "/v"})
	})
	// The shim is served, the container's init is not.
	f.When(func(r fusefs.Request) fusefs.Verdict {
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", r.Pid))
		if strings.HasPrefix(string(comm), "runc:") {
			return fusefs.Hang
		}
		return fusefs.Serve
	})
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience(4*time.Minute))
	defer cancel()
	_, err := n.Daemon.Runtime.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: c.ID})
	if err == nil {
		t.Fatal("the container is started")
	}
	left := processesOf(t, c)
	if len(left) == 0 {
		t.Fatalf("no process hangs: %v", err)
	}
	if s := c.Status(t); s.State != runtime.ContainerState_CONTAINER_CREATED {
		t.Errorf("it is %s (%s) while it has processes %v", s.State, s.Reason, left)
	}
	if _, err := n.Daemon.Runtime.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: c.ID}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a second start: %v", err)
	}
	if _, err := n.Daemon.Runtime.StopContainer(ctx, &runtime.StopContainerRequest{ContainerId: c.ID}); status.Code(err) != codes.Unavailable {
		t.Errorf("it is said to be stopped: %v", err)
	}
	b.check("while it hangs")
	if err := f.Abort(); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, "it ends", func() bool { return c.Status(t).State == runtime.ContainerState_CONTAINER_EXITED })
	if s := c.Status(t); s.ExitCode != 128 || s.Reason != "StartError" {
		t.Errorf("it has ended with %d because of %s", s.ExitCode, s.Reason)
	}
}

// A pod whose containers hang while they are made can be stopped and removed: what runs in it ends, with its hooks, and nothing waits
// for the file system.
func TestAPodIsStoppedWhileItsContainersHang(t *testing.T) {
	for _, call := range []string{"CreateContainer", "StartContainer"} {
		t.Run(call, func(t *testing.T) {
			f := hangingVolume(t)
			n := start(t)
			b := newBystander(t, n)
			mark := filepath.Join(t.TempDir(), "cleaned")
			if err := os.WriteFile(mark, nil, 0o666); err != nil {
				t.Fatal(err)
			}
			p := n.RunPod(t, harness.Hooks(t, hookrun.Poststop, harness.ShellHook("clean", "echo cleaned >> /mark", "timeout", "20s")))
			running := p.Run(t, "running", func(c *runtime.ContainerConfig) {
				c.Mounts = append(c.Mounts, &runtime.Mount{HostPath: mark, ContainerPath: "/mark"})
			})
			volume := func(c *runtime.ContainerConfig) {
				c.Mounts = append(c.Mounts, &runtime.Mount{HostPath: f.folder, ContainerPath: "/v"})
			}
			var victims []*harness.Container
			for i := range crowd {
				if call == "StartContainer" {
					victims = append(victims, p.Create(t, "victim"+strconv.Itoa(i), volume))
				}
			}
			f.HangOn()
			answers := make([]error, crowd)
			done := held(crowd, func(i int) {
				ctx, cancel := context.WithTimeout(context.Background(), harness.Patience(4*time.Minute))
				defer cancel()
				if call == "StartContainer" {
					_, answers[i] = n.Daemon.Runtime.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: victims[i].ID})
					return
				}
				_, answers[i] = p.TryCreate(ctx, p.ContainerConfig("victim"+strconv.Itoa(i), volume))
			})
			if err := f.AwaitHang(harness.Context(t), fusefs.Any); err != nil {
				t.Fatal(err)
			}
			if _, err := n.Daemon.Runtime.StopPodSandbox(harness.Context(t), &runtime.StopPodSandboxRequest{PodSandboxId: p.ID}); err != nil {
				t.Fatalf("StopPodSandbox: %v", err)
			}
			if s := running.Status(t); s.State != runtime.ContainerState_CONTAINER_EXITED {
				t.Errorf("the pod is stopped, and its container is %s", s.State)
			}
			if text, err := os.ReadFile(mark); string(text) != "cleaned\n" {
				t.Errorf("the poststop hook has written %q (%v)", text, err)
			}
			for _, c := range victims {
				if left := processesOf(t, c); len(left) > 0 {
					t.Errorf("the pod is stopped, and %s has processes %v", c.Config.Metadata.Name, left)
				}
			}
			if _, err := n.Daemon.Runtime.RemovePodSandbox(harness.Context(t), &runtime.RemovePodSandboxRequest{PodSandboxId: p.ID}); err != nil {
				t.Fatalf("RemovePodSandbox: %v", err)
			}
			b.check("while the file system hangs")
			f.Resume() // what was asked for could be done now, and nobody wants it any more
			<-done
			for i, err := range answers {
				if err == nil {
					t.Errorf("%s of container %d has succeeded in a pod that was stopped", call, i)
				}
			}
			b.check("when the file system answers again")
		})
	}
}
