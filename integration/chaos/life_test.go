package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

var images = []string{harness.Busybox, harness.Busybox2}

const (
	toldToEnd    = 7  // the programs' exit code after SIGTERM
	endsByItself = 5  // and of one that is not told
	grace        = 30 // seconds; a program needs none of them
)

// pod is a pod in the hands of one client.
type pod struct {
	*harness.Pod
	witness string // the folder in which its containers write what happens
	hooked  bool
	rich    bool // its program is not pid 1
}

// live leads a pod from its start to its removal.
func live(t *testing.T, n *harness.Node) {
	p := &pod{witness: t.TempDir(), hooked: rand.IntN(2) == 0, rich: rand.IntN(4) == 0}
	config := n.PodConfig(t, func(c *runtime.PodSandboxConfig) {
		c.Annotations = map[string]string{}
		if p.hooked {
			c.Annotations["hooks.cri-pouch.io/prestart"] = `[{"name":"before","exec":["sh","-c","echo before >>/witness/$POUCH_ATTEMPT"]}]`
			c.Annotations["hooks.cri-pouch.io/poststop"] = `[{"name":"after","exec":["sh","-c","echo after $POUCH_EXIT_CODE >>/witness/$POUCH_ATTEMPT"]}]`
		}
		if p.rich {
			c.Annotations["rich.cri-pouch.io/mode"] = "dumb-init"
		}
	})
	p.Pod = &harness.Pod{Config: config, Node: n}
	must(t, "RunPodSandbox", func(ctx context.Context) error {
		r, err := n.Daemon.Runtime.RunPodSandbox(ctx, &runtime.RunPodSandboxRequest{Config: config})
		p.ID = r.GetPodSandboxId()
		return err
	})
	attempts := 1 + rand.Uint32N(3)
	for attempt := range attempts {
		p.attempt(t, attempt)
	}
	p.remove(t)
	p.checkJournal(t, attempts)
}

func (p *pod) remove(t *testing.T) {
	r := p.Node.Daemon.Runtime
	must(t, "StopPodSandbox", func(ctx context.Context) error {
		_, err := r.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: p.ID})
		return err
	})
	must(t, "RemovePodSandbox", func(ctx context.Context) error {
		_, err := r.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: p.ID})
		return err
	})
}

// attempt leads one attempt of the pod's container from its creation to its removal. Some end by themselves.
func (p *pod) attempt(t *testing.T, attempt uint32) {
	alone := rand.IntN(3) == 0
	script := fmt.Sprintf(`trap 'echo told >>/witness/%[1]d; exit %[2]d' TERM; echo start >>/witness/%[1]d; while :; do sleep 1000 & wait; done`, attempt, toldToEnd)
	if alone {
		script = fmt.Sprintf(`echo start >>/witness/%d; sleep 0.%d; exit %d`, attempt, rand.IntN(10), endsByItself)
	}
	c := &harness.Container{Pod: p.Pod, Config: p.ContainerConfig("app", harness.Sh(script), func(c *runtime.ContainerConfig) {
		c.Metadata.Attempt = attempt
		c.Image = &runtime.ImageSpec{Image: images[int(attempt)%len(images)]}
		c.LogPath = fmt.Sprintf("app_%d.log", attempt)
		c.Mounts = []*runtime.Mount{{ContainerPath: "/witness", HostPath: p.witness}}
	})}
	must(t, "CreateContainer", func(ctx context.Context) (err error) {
		c.ID, err = p.TryCreate(ctx, c.Config)
		return err
	})
	r := p.Node.Daemon.Runtime
	if err := insist(t, "StartContainer", func(ctx context.Context) error {
		_, err := r.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: c.ID})
		return err
	}); err != nil && status.Code(err) != codes.FailedPrecondition { // it has ended by the time of the repeated request
		t.Fatalf("StartContainer: %v", err)
	}
	if alone && rand.IntN(2) == 0 {
		p.awaitEnd(t, c)
	} else {
		p.use(t, c, alone)
	}
	must(t, "StopContainer", func(ctx context.Context) error {
		_, err := r.StopContainer(ctx, &runtime.StopContainerRequest{ContainerId: c.ID, Timeout: grace})
		return err
	})
	p.judge(t, c, alone)
	must(t, "RemoveContainer", func(ctx context.Context) error {
		_, err := r.RemoveContainer(ctx, &runtime.RemoveContainerRequest{ContainerId: c.ID})
		return err
	})
}

// statusOf insists on a container's status.
func statusOf(t *testing.T, c *harness.Container) *runtime.ContainerStatus {
	t.Helper()
	var s *runtime.ContainerStatus
	must(t, "ContainerStatus", func(ctx context.Context) error {
		r, err := c.Pod.Node.Daemon.Runtime.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: c.ID})
		s = r.GetStatus()
		return err
	})
	return s
}

func (p *pod) awaitEnd(t *testing.T, c *harness.Container) {
	for begun := time.Now(); statusOf(t, c).State != runtime.ContainerState_CONTAINER_EXITED; time.Sleep(50 * time.Millisecond) {
		if time.Since(begun) > harness.Patience(patience) {
			t.Fatalf("container %s never ends", c.ID)
		}
	}
}

// use does for a while what is done with containers that run. One that may end at any time can refuse it, and an exec may end
// with it.
func (p *pod) use(t *testing.T, c *harness.Container, mayEnd bool) {
	r := p.Node.Daemon.Runtime
	for range rand.IntN(6) {
		var err error
		switch rand.IntN(4) {
		case 0:
			err = insist(t, "ExecSync", func(ctx context.Context) error {
				x, err := r.ExecSync(ctx, &runtime.ExecSyncRequest{ContainerId: c.ID, Cmd: []string{"sh", "-c", "cat /version; exit 3"}, Timeout: 60})
				if err == nil && (x.ExitCode != 3 || len(x.Stdout) == 0) && !mayEnd {
					t.Errorf("ExecSync gave code %d, %q, %q", x.ExitCode, x.Stdout, x.Stderr)
				}
				return err
			})
		case 1:
			err = insist(t, "ReopenContainerLog", func(ctx context.Context) error {
				_, err := r.ReopenContainerLog(ctx, &runtime.ReopenContainerLogRequest{ContainerId: c.ID})
				return err
			})
		case 2:
			err = insist(t, "UpdateContainerResources", func(ctx context.Context) error {
				_, err := r.UpdateContainerResources(ctx, &runtime.UpdateContainerResourcesRequest{ContainerId: c.ID, Linux: &runtime.LinuxContainerResources{CpuShares: 200 + rand.Int64N(800)}})
				return err
			})
		case 3:
			err = insist(t, "ContainerStats", func(ctx context.Context) error {
				_, err := r.ContainerStats(ctx, &runtime.ContainerStatsRequest{ContainerId: c.ID})
				return err
			})
		}
		if err != nil && (!mayEnd || status.Code(err) != codes.FailedPrecondition) {
			t.Fatal(err)
		}
	}
}

// judge compares what a container's status says with what it and its hooks have written.
func (p *pod) judge(t *testing.T, c *harness.Container, alone bool) {
	s := statusOf(t, c)
	b, err := os.ReadFile(filepath.Join(p.witness, fmt.Sprint(c.Config.Metadata.Attempt)))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	story := strings.Join(strings.Fields(string(b)), " ")
	for p.hooked && strings.HasPrefix(story, "before before") { // a start that the daemon's death has ended runs them anew
		story = strings.TrimPrefix(story, "before ")
	}
	var want []string
	switch {
	case s.Reason == "StartError" && s.ExitCode == 128: // the daemon's death ended the start before the program began
		want = []string{"", "before"}
	case s.ExitCode == toldToEnd && !alone:
		want = []string{p.whole("start told", s.ExitCode), p.whole("told", s.ExitCode)}
	case s.ExitCode == endsByItself && alone:
		want = []string{p.whole("start", s.ExitCode)}
	case s.ExitCode == 128+15 && p.rich: // told before it has said how it takes that, which pid 1 is not
		want = []string{p.whole("start", s.ExitCode), p.whole("", s.ExitCode)}
	}
	for _, w := range want {
		if s.State == runtime.ContainerState_CONTAINER_EXITED && story == w {
			return
		}
	}
	t.Errorf("container %s is %s, code %d, %s, %q; it has written %q", c.ID, s.State, s.ExitCode, s.Reason, s.Message, story)
}

// whole is what a program and the hooks around it write.
func (p *pod) whole(program string, code int32) string {
	if !p.hooked {
		return program
	}
	return strings.Join(strings.Fields(fmt.Sprintf("before %s after %d", program, code)), " ")
}
