package integration

import (
	"context"
	"strings"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// HistorySteps are passed while a container leaves and its generation enters the pod's history.
var (
	HistorySteps  = []string{"container.remove-ended", "rootfs.removed", "container.remove-rootfs"}
	BequeathSteps = []string{"sandbox.emptied", "sandbox.bequeathed"}
)

// JournalSteps are passed in a container's life between something that happens and the journal's word of it.
var JournalSteps = []string{
	"container.prepared", "container.started", "container.end-recorded", "container.remove-ended", "rootfs.removed", "container.remove-rootfs",
}

// Wherever the daemon is killed, the journal has each step of a container's life once and in order.
func TestTheJournalIsWholeWhenKilled(t *testing.T) {
	n := harness.Start(t, harness.Failpoints(t))
	for _, step := range JournalSteps {
		t.Run(step, func(t *testing.T) {
			p := n.RunPod(t)
			old := p.Run(t, "app", version(0, harness.Busybox, "aaaa"))
			old.Stop(t, 0)
			c := &harness.Container{Config: p.ContainerConfig("app", version(1, harness.Busybox, "bbbb")), Pod: p}
			r := n.Daemon.Runtime
			life := func(ctx context.Context) error {
				for _, listed := range listContainers(t, n, &runtime.ContainerFilter{PodSandboxId: p.ID}) {
					if listed.Metadata.Attempt == 1 {
						c.ID = listed.Id // as a kubelet that finds what it asked for
					}
				}
				if c.ID == "" {
					id, err := p.TryCreate(ctx, c.Config)
					if err != nil {
						return err
					}
					c.ID = id
				}
				if s, err := r.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: c.ID}); err == nil && s.Status.State == runtime.ContainerState_CONTAINER_CREATED {
					if _, err := r.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: c.ID}); err != nil {
						return err
					}
				}
				if _, err := r.StopContainer(ctx, &runtime.StopContainerRequest{ContainerId: c.ID}); err != nil {
					return err
				}
				_, err := r.RemoveContainer(ctx, &runtime.RemoveContainerRequest{ContainerId: c.ID})
				return err
			}
			killedAt(t, n, step, life)
			if err := life(harness.Context(t)); err != nil {
				t.Errorf("the retry fails: %v", err)
			}
			want := "created 0, started 0, ended 0, created 1, started 1, upgraded 1, ended 1, removed 1"
			for range 2 { // another restart has nothing to catch up with
				all, err := journal(t, n, &pouchv1.EventsRequest{Pod: p.Config.Metadata.Uid})
				if err != nil || strings.Join(story(all), ", ") != want {
					t.Errorf("the journal tells\n%q, want\n%q, %v", story(all), want, err)
				}
				n.KillDaemon(t)
				n.StartDaemon(t)
			}
			p.Remove(t)
		})
	}
}

// A daemon killed while a container is removed neither loses nor doubles what history knows of it.
func TestHistoryIsWholeWhenKilledInRemoveContainer(t *testing.T) {
	n := harness.Start(t, harness.Failpoints(t))
	for _, step := range HistorySteps {
		t.Run(step, func(t *testing.T) {
			p := n.RunPod(t)
			old := p.Run(t, "app", version(0, harness.Busybox, "aaaa"))
			old.Stop(t, 0)
			app := p.Run(t, "app", version(1, harness.Busybox, "bbbb"))
			was, now := old.Status(t), app.Status(t)
			remove := func(ctx context.Context) error {
				_, err := n.Daemon.Runtime.RemoveContainer(ctx, &runtime.RemoveContainerRequest{ContainerId: old.ID})
				return err
			}
			killedAt(t, n, step, remove)
			for range 2 { // before and after the kubelet's retry
				all := historyOf(t, p, "app")
				if len(all) != 2 {
					t.Fatalf("history has %v", all)
				}
				wantGeneration(t, all[0], was, nil, pouchv1.Cause_CAUSE_FIRST, all[0].State)
				wantGeneration(t, all[1], now, was, pouchv1.Cause_CAUSE_UPGRADE, pouchv1.GenerationState_GENERATION_STATE_RUNNING)
				if err := remove(harness.Context(t)); err != nil {
					t.Errorf("the retry fails: %v", err)
				}
			}
			if got := historyOf(t, p, "app")[0].State; got != pouchv1.GenerationState_GENERATION_STATE_REMOVED {
				t.Errorf("the removed one is %s", got)
			}
			p.Remove(t)
		})
	}
}

// A pod's sandbox is beyond repair and made anew, as by a kubelet; the history goes on in the new one, and goes with it.
func TestHistoryOutlivesASandboxOfItsPod(t *testing.T) {
	n := harness.Start(t, harness.Failpoints(t))
	for _, step := range BequeathSteps {
		t.Run(step, func(t *testing.T) {
			first := n.RunPod(t)
			old := first.Run(t, "app", version(0, harness.Busybox, "aaaa"))
			old.Stop(t, 0)
			was := old.Status(t)
			config := n.PodConfig(t)
			config.Metadata.Name, config.Metadata.Uid, config.Metadata.Attempt = first.Config.Metadata.Name, first.Config.Metadata.Uid, 1
			if _, err := n.Daemon.Runtime.StopPodSandbox(harness.Context(t), &runtime.StopPodSandboxRequest{PodSandboxId: first.ID}); err != nil {
				t.Fatal(err)
			}
			second := n.RunPodConfig(t, config)
			app := second.Run(t, "app", version(1, harness.Busybox, "aaaa"))
			now := app.Status(t)
			check := func() {
				t.Helper()
				all := historyOf(t, second, "app")
				if len(all) != 2 {
					t.Fatalf("history has %v", all)
				}
				wantGeneration(t, all[0], was, nil, pouchv1.Cause_CAUSE_FIRST, all[0].State)
				wantGeneration(t, all[1], now, was, pouchv1.Cause_CAUSE_RESTART, pouchv1.GenerationState_GENERATION_STATE_RUNNING)
			}
			check()
			killedAt(t, n, step, func(ctx context.Context) error {
				_, err := n.Daemon.Runtime.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: first.ID})
				return err
			})
			check()
			first.Remove(t)
			check()
			n.KillDaemon(t)
			n.StartDaemon(t)
			check()
			second.Remove(t)
			// Another pod that is called the same knows nothing of it.
			config.Metadata.Attempt = 2
			third := n.RunPodConfig(t, config)
			third.Run(t, "app", version(0, harness.Busybox, "aaaa"))
			if all := historyOf(t, third, "app"); len(all) != 1 || all[0].Cause != pouchv1.Cause_CAUSE_FIRST {
				t.Errorf("after the last sandbox had gone, history has %v", all)
			}
			third.Remove(t)
		})
	}
}
