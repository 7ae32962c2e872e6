package integration

import (
	"context"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
	"github.com/cri-pouch/cri-pouch/integration/lab"
)

func TestStatsCountWhatAContainerUses(t *testing.T) {
	n := harness.Start(t)
	p := n.RunPod(t)
	c := p.Run(t, "app", harness.Sh("head -c 8000000 /dev/zero >/file; x=$(head -c 8000000 /dev/zero | tr '\\0' x); echo ready; sleep 1000; :"))
	c.AwaitLog(t, "ready")
	stats := func() *runtime.ContainerStats {
		r, err := n.Daemon.Runtime.ContainerStats(harness.Context(t), &runtime.ContainerStatsRequest{ContainerId: c.ID})
		if err != nil {
			t.Fatal(err)
		}
		return r.Stats
	}
	s := stats()
	if got := s.GetCpu().GetUsageCoreNanoSeconds().GetValue(); got == 0 {
		t.Error("no CPU time was counted")
	}
	if got := s.GetMemory().GetWorkingSetBytes().GetValue(); got < 8000000 {
		t.Errorf("the working set is %d bytes, the shell alone holds 8000000", got)
	}
	harness.Eventually(t, "the writable layer counts the file", func() bool {
		w := stats().GetWritableLayer()
		return w.GetUsedBytes().GetValue() >= 8000000 && w.GetInodesUsed().GetValue() > 0 && w.GetFsId().GetMountpoint() != ""
	})
	if s.GetAttributes().GetId() != c.ID || s.GetAttributes().GetMetadata().GetName() != "app" {
		t.Errorf("attributes are %v", s.GetAttributes())
	}
	other := p.Run(t, "other")
	list := func(f *runtime.ContainerStatsFilter) (ids []string) {
		r, err := n.Daemon.Runtime.ListContainerStats(harness.Context(t), &runtime.ListContainerStatsRequest{Filter: f})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range r.Stats {
			ids = append(ids, s.GetAttributes().GetId())
		}
		return ids
	}
	if ids := list(nil); !slices.Contains(ids, c.ID) || !slices.Contains(ids, other.ID) {
		t.Errorf("all: %v", ids)
	}
	if ids := list(&runtime.ContainerStatsFilter{Id: other.ID}); len(ids) != 1 || ids[0] != other.ID {
		t.Errorf("of one: %v", ids)
	}
	other.Stop(t, 0)
	if ids := list(nil); slices.Contains(ids, other.ID) {
		t.Error("an ended container is listed")
	}
	_, err := n.Daemon.Runtime.ContainerStats(harness.Context(t), &runtime.ContainerStatsRequest{ContainerId: "nowhere"})
	wantCode(t, err, codes.NotFound, "nowhere")
}

func TestResourcesAreChangedInARunningContainer(t *testing.T) {
	n := harness.Start(t)
	c := n.RunPod(t).Run(t, "app", func(cfg *runtime.ContainerConfig) {
		cfg.Linux = &runtime.LinuxContainerConfig{SecurityContext: cfg.GetLinux().GetSecurityContext(), Resources: &runtime.LinuxContainerResources{
			MemoryLimitInBytes: 64 << 20, CpuPeriod: 100000, CpuQuota: 50000,
		}}
	})
	update := func(r *runtime.LinuxContainerResources) error {
		_, err := n.Daemon.Runtime.UpdateContainerResources(harness.Context(t), &runtime.UpdateContainerResourcesRequest{ContainerId: c.ID, Linux: r})
		return err
	}
	limit := func() string {
		return strings.TrimSpace(c.Exec(t, "sh", "-c", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max"))
	}
	if got := limit(); got != "67108864" {
		t.Fatalf("the limit at the start is %s", got)
	}
	if err := update(&runtime.LinuxContainerResources{MemoryLimitInBytes: 96 << 20}); err != nil {
		t.Fatal(err)
	}
	if got := limit(); got != "100663296" {
		t.Errorf("the limit is %s", got)
	}
	if r := c.Status(t).GetResources().GetLinux(); r.GetMemoryLimitInBytes() != 96<<20 || r.GetCpuQuota() != 50000 {
		t.Errorf("the status says %v", r)
	}
	n.KillDaemon(t)
	n.StartDaemon(t)
	if r := c.Status(t).GetResources().GetLinux(); r.GetMemoryLimitInBytes() != 96<<20 {
		t.Errorf("after a restart the status says %v", r)
	}
	if err := update(&runtime.LinuxContainerResources{CpuPeriod: -1}); err == nil {
		t.Error("a negative period was taken")
	}
	c.Stop(t, 0)
	if err := update(&runtime.LinuxContainerResources{MemoryLimitInBytes: 64 << 20}); err == nil {
		t.Error("an ended container was updated")
	}
}

func TestEventsTellOfEachStepInOrder(t *testing.T) {
	n := harness.Start(t)
	ctx, cancel := context.WithCancel(harness.Context(t))
	defer cancel()
	p := n.RunPod(t) // before, for a sandbox has events too
	stream, err := n.Daemon.Runtime.GetContainerEvents(ctx, &runtime.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	// The call returns before the server has subscribed; the first container tells when it has.
	harness.Eventually(t, "the subscription is there", func() bool {
		c := p.Create(t, "probe")
		c.Remove(t)
		e, err := stream.Recv()
		return err == nil && e.ContainerId == c.ID
	})
	c := p.Run(t, "app")
	c.Stop(t, 0)
	c.Remove(t)
	want := []runtime.ContainerEventType{
		runtime.ContainerEventType_CONTAINER_CREATED_EVENT, runtime.ContainerEventType_CONTAINER_STARTED_EVENT,
		runtime.ContainerEventType_CONTAINER_STOPPED_EVENT, runtime.ContainerEventType_CONTAINER_DELETED_EVENT,
	}
	for len(want) > 0 {
		e, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if e.ContainerId != c.ID {
			continue
		}
		if e.ContainerEventType != want[0] || e.GetPodSandboxStatus().GetMetadata().GetUid() == "" {
			t.Fatalf("event is %v, want %v with the sandbox's metadata", e, want[0])
		}
		want = want[1:]
	}
}

func TestAnImageIsImportedFromAFile(t *testing.T) {
	n := harness.Start(t)
	img, err := lab.BusyboxImage("imported", nil)
	if err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag("example.com/imported:1")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "image.tar")
	if err := tarball.WriteToFile(file, tag, img); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(filepath.Dir(n.Binary), "cri-pouch")
	out, err := exec.Command(program, "--socket", n.Socket(), "image", "import", file).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "example.com/imported:1") {
		t.Fatalf("%v: %s", err, out)
	}
	text, code := n.RunPod(t).RunToEnd(t, "app", harness.Command("cat", "/version"), func(c *runtime.ContainerConfig) {
		c.Image = &runtime.ImageSpec{Image: "example.com/imported:1"}
	})
	if code != 0 || strings.TrimSpace(text) != "imported" {
		t.Errorf("exit code %d, %q", code, text)
	}
	out, err = exec.Command(program, "--socket", n.Socket(), "image", "import", "/etc/hostname").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "/etc/hostname") {
		t.Errorf("a file that is no archive: %v: %s", err, out)
	}
}
