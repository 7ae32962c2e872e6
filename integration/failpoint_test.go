package integration

import (
	"context"
	"strings"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// The steps at which the daemon is killed, by the call that passes them. A rule compares these lists with the source.
var (
	SandboxSteps   = []string{"sandbox.recorded", "network.pinned", "network.attached", "network.files-written", "sandbox.ready"}
	ContainerSteps = []string{"container.prepared", "rootfs.created", "container.recorded"}
	StartSteps     = []string{"rootfs.mounted", "container.mounted", "container.launching", "container.created", "container.started"}
	PullSteps      = []string{"pull.resolved", "pull.fetched", "pull.extracted", "pull.committed", "pull.unpacked", "pull.named"}
)

// bystander is a running container that must not notice what happens to the daemon.
type bystander struct {
	c      *harness.Container
	before *runtime.ContainerStatus
}

func newBystander(t *testing.T, n *harness.Node) bystander {
	t.Helper()
	c := n.RunPod(t).Run(t, "bystander", harness.Sh(ticker))
	c.AwaitLog(t, "tick 1")
	return bystander{c, c.Status(t)}
}

func (b bystander) check(t *testing.T) {
	t.Helper()
	after := b.c.Status(t)
	if after.State != runtime.ContainerState_CONTAINER_RUNNING || after.StartedAt != b.before.StartedAt || after.CreatedAt != b.before.CreatedAt {
		t.Errorf("the bystander was %v, is %v", b.before, after)
	}
	tick := lastTick(t, b.c)
	harness.Eventually(t, "the bystander goes on", func() bool { return lastTick(t, b.c) > tick })
	checkTicks(t, b.c)
}

// killedAt starts the daemon so that it dies at a step, makes it pass that step by call, and starts it again.
func killedAt(t *testing.T, n *harness.Node, step string, call func(context.Context) error) {
	t.Helper()
	if n.Daemon.Running() {
		n.TerminateDaemon(t)
	}
	n.StartDaemon(t, "CRI_POUCH_FAILPOINTS="+step+"=kill")
	err := call(harness.Context(t))
	select {
	case <-n.Daemon.Gone():
	case <-harness.Context(t).Done():
		t.Fatalf("step %s did not end the daemon; the call gave %v", step, err)
	}
	n.StartDaemon(t)
}

func TestKilledInRunPodSandbox(t *testing.T) {
	n := harness.Start(t, harness.Failpoints(t))
	b := newBystander(t, n)
	for _, step := range SandboxSteps {
		t.Run(step, func(t *testing.T) {
			for _, retry := range []bool{true, false} {
				c := n.PodConfig(t)
				killedAt(t, n, step, func(ctx context.Context) error {
					_, err := n.Daemon.Runtime.RunPodSandbox(ctx, &runtime.RunPodSandboxRequest{Config: c})
					return err
				})
				b.check(t)
				if retry {
					p := n.RunPodConfig(t, c)
					p.Run(t, "app").Exec(t, "true")
					p.Remove(t)
				} else {
					removeOthers(t, n, b.c.Pod.ID)
				}
				wantOneAddress(t, n)
			}
		})
	}
}

func TestKilledInCreateContainer(t *testing.T) {
	testKilledWithContainer(t, ContainerSteps, func(ctx context.Context, p *harness.Pod, c *runtime.ContainerConfig) error {
		_, err := p.TryCreate(ctx, c)
		return err
	})
}

func TestKilledInStartContainer(t *testing.T) {
	testKilledWithContainer(t, StartSteps, func(ctx context.Context, p *harness.Pod, c *runtime.ContainerConfig) error {
		id, err := p.TryCreate(ctx, c)
		if err != nil {
			return err
		}
		_, err = p.Node.Daemon.Runtime.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: id})
		return err
	})
}

func testKilledWithContainer(t *testing.T, steps []string, call func(context.Context, *harness.Pod, *runtime.ContainerConfig) error) {
	n := harness.Start(t, harness.Failpoints(t))
	b := newBystander(t, n)
	for _, step := range steps {
		t.Run(step, func(t *testing.T) {
			p := n.RunPod(t)
			c := p.ContainerConfig("app")
			killedAt(t, n, step, func(ctx context.Context) error { return call(ctx, p, c) })
			b.check(t)
			// The kubelet goes by what is listed: what is there is attempt 0, whatever became of it.
			if left := listContainers(t, n, &runtime.ContainerFilter{PodSandboxId: p.ID}); len(left) > 1 {
				t.Errorf("%d containers are listed", len(left))
			} else if len(left) == 1 {
				c.Metadata.Attempt = left[0].Metadata.Attempt + 1
			}
			id, err := p.TryCreate(harness.Context(t), c)
			if err != nil {
				t.Fatalf("the retry fails: %v", err)
			}
			again := &harness.Container{ID: id, Config: c, Pod: p}
			again.Start(t)
			again.Exec(t, "true")
			p.Remove(t)
			wantOneAddress(t, n)
		})
	}
}

func TestKilledInPullImage(t *testing.T) {
	n := harness.Start(t, harness.Failpoints(t))
	b := newBystander(t, n)
	for _, step := range PullSteps {
		t.Run(step, func(t *testing.T) {
			killedAt(t, n, step, func(ctx context.Context) error {
				_, err := pull(ctx, n, harness.Busybox2, nil)
				return err
			})
			b.check(t)
			if id := n.Pull(t, harness.Busybox2); !strings.HasPrefix(id, "sha256:") {
				t.Errorf("the retry gives %q", id)
			}
			p := n.RunPod(t)
			if got, _ := p.RunToEnd(t, "app", harness.Command("cat", "/version"), func(c *runtime.ContainerConfig) { c.Image.Image = harness.Busybox2 }); got != "two\n" {
				t.Errorf("/version holds %q", got)
			}
			p.Remove(t)
			if _, err := n.Daemon.Images.RemoveImage(harness.Context(t), &runtime.RemoveImageRequest{Image: &runtime.ImageSpec{Image: harness.Busybox2}}); err != nil {
				t.Error(err)
			}
		})
	}
}

// removeOthers does what the kubelet's garbage collection does with sandboxes that it does not want.
func removeOthers(t *testing.T, n *harness.Node, keep string) {
	t.Helper()
	for _, p := range listPods(t, n) {
		if p.Id != keep {
			(&harness.Pod{ID: p.Id, Node: n}).Remove(t)
		}
	}
}

// wantOneAddress fails the test unless only the bystander has an address.
func wantOneAddress(t *testing.T, n *harness.Node) {
	t.Helper()
	harness.Eventually(t, "only the bystander's address is taken", func() bool {
		taken, err := n.Network.Reserved()
		return err == nil && len(taken) == 1
	})
}
