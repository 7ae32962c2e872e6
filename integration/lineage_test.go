package integration

import (
	"fmt"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// version makes a container's configuration what the kubelet asks for in its attempt so many, with the hash of its spec.
func version(attempt uint32, image, hash string) func(*runtime.ContainerConfig) {
	return func(c *runtime.ContainerConfig) {
		c.Metadata.Attempt, c.LogPath = attempt, fmt.Sprintf("%s_%d.log", c.Metadata.Name, attempt)
		c.Image = &runtime.ImageSpec{Image: image, UserSpecifiedImage: image}
		c.Annotations = map[string]string{"io.kubernetes.container.hash": hash, "io.kubernetes.container.restartCount": fmt.Sprint(attempt)}
	}
}

// historyOf gives the generations of a pod's containers called name.
func historyOf(t testing.TB, p *harness.Pod, name string) []*pouchv1.Generation {
	t.Helper()
	r, err := p.Node.Daemon.Pouch.History(harness.Context(t), &pouchv1.HistoryRequest{PodSandboxId: p.ID})
	if err != nil {
		t.Fatalf("History %s: %v", p.ID, err)
	}
	if r.PodSandboxId != p.ID || r.PodUid != p.Config.Metadata.Uid || r.PodName != p.Config.Metadata.Name {
		t.Errorf("the history is of %s, %s, %s", r.PodSandboxId, r.PodName, r.PodUid)
	}
	var all []*pouchv1.Generation
	for _, g := range r.Generations {
		if g.ContainerName == name {
			all = append(all, g)
		}
	}
	return all
}

// wantGeneration compares what history says with the statuses that the containers had.
func wantGeneration(t testing.TB, g *pouchv1.Generation, c, before *runtime.ContainerStatus, cause pouchv1.Cause, state pouchv1.GenerationState) {
	t.Helper()
	if g.ContainerId != c.Id || g.Attempt != c.Metadata.Attempt || g.Image != c.Image.Image || g.ImageRef != c.ImageRef || g.ImageId != c.ImageId ||
		g.Hash != c.Annotations["io.kubernetes.container.hash"] {
		t.Errorf("generation %v is not of %v", g, c)
	}
	if g.CreatedAt != c.CreatedAt || g.StartedAt != c.StartedAt || g.FinishedAt != c.FinishedAt || g.ExitCode != c.ExitCode || g.Reason != c.Reason {
		t.Errorf("generation %v differs from %v", g, c)
	}
	if g.Cause != cause || g.State != state {
		t.Errorf("cause and state are %s, %s, want %s, %s", g.Cause, g.State, cause, state)
	}
	switch {
	case before == nil && (g.PredecessorId != "" || g.OutageMs != nil):
		t.Errorf("the first one has predecessor %q and outage %v", g.PredecessorId, g.OutageMs)
	case before != nil && (g.PredecessorId != before.Id || g.OutageMs == nil || *g.OutageMs != (c.StartedAt-before.FinishedAt)/1e6):
		t.Errorf("predecessor is %q, outage %v ms; it was %s, ended at %d", g.PredecessorId, g.OutageMs, before.Id, before.FinishedAt)
	}
}

// A pod's container crashes once and is upgraded once; its history tells both, whatever the kubelet removes and whoever
// restarts.
func TestHistoryTellsRestartsAndUpgrades(t *testing.T) {
	n := harness.Start(t)
	p := n.RunPod(t)
	n.Pull(t, harness.Busybox2)
	first := p.Run(t, "web", version(0, harness.Busybox, "aaaa"), harness.Sh("exit 3"))
	if _, code := first.Ended(t); code != 3 {
		t.Fatalf("exit code %d", code)
	}
	second := p.Run(t, "web", version(1, harness.Busybox, "aaaa"))
	p.Run(t, "side", version(0, harness.Busybox, "cccc"))
	second.Stop(t, 0)
	third := p.Run(t, "web", version(2, harness.Busybox2, "bbbb"))
	s1, s2, s3 := first.Status(t), second.Status(t), third.Status(t)

	check := func(oldState pouchv1.GenerationState) {
		t.Helper()
		all := historyOf(t, p, "web")
		if len(all) != 3 {
			t.Fatalf("history has %v", all)
		}
		wantGeneration(t, all[0], s1, nil, pouchv1.Cause_CAUSE_FIRST, oldState)
		wantGeneration(t, all[1], s2, s1, pouchv1.Cause_CAUSE_RESTART, oldState)
		wantGeneration(t, all[2], s3, s2, pouchv1.Cause_CAUSE_UPGRADE, pouchv1.GenerationState_GENERATION_STATE_RUNNING)
		if side := historyOf(t, p, "side"); len(side) != 1 || side[0].Cause != pouchv1.Cause_CAUSE_FIRST {
			t.Errorf("the other container's history is %v", side)
		}
	}
	check(pouchv1.GenerationState_GENERATION_STATE_EXITED)
	n.KillDaemon(t)
	n.StartDaemon(t)
	check(pouchv1.GenerationState_GENERATION_STATE_EXITED)
	first.Remove(t) // as the kubelet's garbage collection does
	second.Remove(t)
	check(pouchv1.GenerationState_GENERATION_STATE_REMOVED)
	n.KillDaemon(t)
	n.StartDaemon(t)
	check(pouchv1.GenerationState_GENERATION_STATE_REMOVED)
	t.Logf("outage of the upgrade: %d ms", *historyOf(t, p, "web")[2].OutageMs)
}
