package integration

import (
	"context"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

var (
	EndSteps = []string{"container.end-recorded", "rootfs.unmounted", "container.remove-ended", "container.remove-rootfs", "rootfs.removed",
		"sandbox.emptied", "network.detached", "sandbox.detached"}
	ImageEndSteps = []string{"image.unnamed"}
	ServeSteps    = []string{"server.locked", "server.opened", "server.recovered", "server.ready"}
	// SweepSteps are passed when a daemon finds no shim: it ends what is left and starts a new one.
	SweepSteps = []string{"shim.container-swept", "shim.swept", "shim.spawned"}
)

func TestKilledInStopAndRemove(t *testing.T) {
	n := harness.Start(t, harness.Failpoints(t))
	b := newBystander(t, n)
	for _, step := range EndSteps {
		t.Run(step, func(t *testing.T) {
			p := n.RunPod(t)
			c := p.Run(t, "app")
			killedAt(t, n, step, func(ctx context.Context) error { return takeDown(ctx, n, p.ID, c.ID) })
			b.check(t)
			if err := takeDown(harness.Context(t), n, p.ID, c.ID); err != nil {
				t.Errorf("the retry fails: %v", err)
			}
			if got := listContainers(t, n, nil); len(got) != 1 {
				t.Errorf("%d containers are listed, the bystander is one", len(got))
			}
			wantOneAddress(t, n)
		})
	}
	for _, step := range ImageEndSteps {
		t.Run(step, func(t *testing.T) {
			n.Pull(t, harness.Busybox2)
			remove := func(ctx context.Context) error {
				_, err := n.Daemon.Images.RemoveImage(ctx, &runtime.RemoveImageRequest{Image: &runtime.ImageSpec{Image: harness.Busybox2}})
				return err
			}
			killedAt(t, n, step, remove)
			b.check(t)
			if err := remove(harness.Context(t)); err != nil {
				t.Errorf("the retry fails: %v", err)
			}
			if got := listImages(t, n); len(got) != 1 {
				t.Errorf("%d images are listed, the bystander's is one", len(got))
			}
		})
	}
}

// takeDown stops and removes a container and its sandbox, up to the first error.
func takeDown(ctx context.Context, n *harness.Node, pod, container string) error {
	r := n.Daemon.Runtime
	if _, err := r.StopContainer(ctx, &runtime.StopContainerRequest{ContainerId: container}); err != nil && !gone(err) {
		return err
	}
	if _, err := r.RemoveContainer(ctx, &runtime.RemoveContainerRequest{ContainerId: container}); err != nil {
		return err
	}
	if _, err := r.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
		return err
	}
	_, err := r.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: pod})
	return err
}

func TestKilledWhileStarting(t *testing.T) {
	n := harness.Start(t, harness.Failpoints(t))
	b := newBystander(t, n)
	for _, step := range ServeSteps {
		t.Run(step, func(t *testing.T) {
			n.TerminateDaemon(t)
			diesAt(t, n, step)
			n.StartDaemon(t)
			b.check(t)
		})
	}
}

func TestKilledWhileClearingUpAfterAShim(t *testing.T) {
	n := harness.Start(t, harness.Failpoints(t))
	for _, step := range SweepSteps {
		t.Run(step, func(t *testing.T) {
			p := n.RunPod(t)
			c := p.Run(t, "app")
			killShim := n.ShimKiller(t)
			n.KillDaemon(t)
			killShim()
			diesAt(t, n, step)
			n.StartDaemon(t)
			c.Ended(t)
			if s := c.Status(t); s.Reason != "Lost" {
				t.Errorf("reason is %q", s.Reason)
			}
			p.Run(t, "app", func(c *runtime.ContainerConfig) { c.Metadata.Attempt = 1 }).Exec(t, "true")
			p.Remove(t)
		})
	}
}

// diesAt starts the daemon, which has ended, so that it dies at a step of its start.
func diesAt(t *testing.T, n *harness.Node, step string) {
	t.Helper()
	// A step after the daemon said that it is ready ends it a moment later; one before makes Start fail.
	_ = n.Daemon.Start(harness.Context(t), "CRI_POUCH_FAILPOINTS="+step+"=kill")
	select {
	case <-n.Daemon.Gone():
	case <-harness.Context(t).Done():
		t.Fatalf("step %s did not end the daemon", step)
	}
	if n.Daemon.ExitState().Exited() {
		t.Fatalf("the daemon ended by itself before %s: %s", step, n.Daemon.LogTail(2000))
	}
}
