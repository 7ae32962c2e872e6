package rich

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

func stats(t *testing.T, c *harness.Container) *runtime.ContainerStats {
	t.Helper()
	r, err := c.Pod.Node.Daemon.Runtime.ContainerStats(harness.Context(t), &runtime.ContainerStatsRequest{ContainerId: c.ID})
	if err != nil {
		t.Fatalf("ContainerStats: %v", err)
	}
	return r.Stats
}

// What the container takes is what all of it takes, not the application alone; and a new limit is in force for all of it
// while it runs.
func figuresAndLimitsAreTheWholeTrees(t *testing.T, n *harness.Node, m machine, ref string) {
	const mib = 1 << 20
	c := n.RunPod(t, pod(m.mode)).Run(t, "app", probe(ref, "wait", "exit=3"), func(c *runtime.ContainerConfig) {
		c.Linux.Resources.MemoryLimitInBytes, c.Linux.Resources.MemorySwapLimitInBytes = 600*mib, 600*mib
	})
	c.AwaitLine(t, boot, "waiting")
	before := stats(t, c)
	// A process that init and application know nothing of, as a service's is.
	exec(t, c, "sh", "-c", "(exec probe hold=100 sleep=24h) >/tmp/held 2>&1 &")
	harness.Eventually(t, "memory is taken", func() bool { code, _ := exec(t, c, "grep", "-q", "held", "/tmp/held"); return code == 0 })
	after := stats(t, c)
	if more := int64(after.Memory.UsageBytes.GetValue()) - int64(before.Memory.UsageBytes.GetValue()); more < 90*mib {
		t.Errorf("%d bytes more are in use after 100 MiB were taken", more)
	}
	if after.Cpu.UsageCoreNanoSeconds.GetValue() <= before.Cpu.UsageCoreNanoSeconds.GetValue() {
		t.Errorf("CPU time went from %d to %d", before.Cpu.UsageCoreNanoSeconds.GetValue(), after.Cpu.UsageCoreNanoSeconds.GetValue())
	}

	limit := func(bytes int64) {
		_, err := n.Daemon.Runtime.UpdateContainerResources(harness.Context(t), &runtime.UpdateContainerResourcesRequest{
			ContainerId: c.ID, Linux: &runtime.LinuxContainerResources{MemoryLimitInBytes: bytes, MemorySwapLimitInBytes: bytes},
		})
		if err != nil {
			t.Fatalf("UpdateContainerResources: %v", err)
		}
		if got := c.Status(t).GetResources().GetLinux().GetMemoryLimitInBytes(); got != bytes {
			t.Errorf("the status says %d, it is %d", got, bytes)
		}
	}
	limit(300 * mib)
	if code, out := exec(t, c, "probe", "hold=250", "exit=0"); code != 137 {
		t.Errorf("100 MiB and 250 MiB fit into 300 MiB: code %d, %s", code, out)
	}
	limit(600 * mib)
	if code, out := exec(t, c, "probe", "hold=250", "exit=0"); code != 0 {
		t.Errorf("100 MiB and 250 MiB do not fit into 600 MiB: code %d, %s", code, out)
	}
	c.Stop(t, 90)
	if _, code := c.Ended(t); code != 3 {
		t.Errorf("code %d: a process beside the application was out of memory", code)
	}
}

// The pod's bound of processes, which the kubelet sets, holds for everything in its rich container.
func aForkBombHitsThePodsBound(t *testing.T, n *harness.Node, m machine, ref string) {
	p := n.RunPod(t, pod(m.mode), harness.OwnCgroup(t, n))
	c := p.Run(t, "app", probe(ref, "wait", "exit=3"))
	c.AwaitLine(t, boot, "waiting")
	bound := ""
	for _, dir := range harness.PodCgroups(t, n, p.Config) {
		if _, err := os.Stat(filepath.Join(dir, "pids.max")); err == nil {
			bound = dir
		}
	}
	if bound == "" {
		t.Fatal("nothing bounds the pod's processes")
	}
	current, err := os.ReadFile(filepath.Join(bound, "pids.current"))
	if err != nil {
		t.Fatal(err)
	}
	now, err := strconv.Atoi(strings.TrimSpace(string(current)))
	if err == nil {
		err = os.WriteFile(filepath.Join(bound, "pids.max"), []byte(strconv.Itoa(now+40)), 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	_, out := exec(t, c, "sh", "-c", "echo max >/sys/fs/cgroup/pids/pids.max; i=0; while [ $i -lt 200 ]; do sleep 5 & i=$((i+1)); done 2>/dev/null; echo all")
	if strings.HasSuffix(out, "all") {
		t.Errorf("200 processes fit into a bound of 40: %s", out)
	}
	c.Stop(t, 90)
	if _, code := c.Ended(t); code != 3 {
		t.Errorf("code %d", code)
	}
}

// A probe of the kubelet that hangs is ended at its timeout with all that it started, and nothing else is.
func probesOfTheKubeletWork(t *testing.T, n *harness.Node, m machine, ref string) {
	c := n.RunPod(t, pod(m.mode)).Run(t, "app", probe(ref, "wait", "exit=3"))
	c.AwaitLine(t, boot, "waiting")
	for range 3 {
		if code, out := exec(t, c, "sh", "-c", "echo healthy; exit 0"); code != 0 || out != "healthy" {
			t.Errorf("code %d, %q", code, out)
		}
	}
	if code, out := exec(t, c, "sh", "-c", "echo sick >&2; exit 2"); code != 2 || out != "sick" {
		t.Errorf("code %d, %q", code, out)
	}
	begin := time.Now()
	_, err := n.Daemon.Runtime.ExecSync(harness.Context(t), &runtime.ExecSyncRequest{ContainerId: c.ID, Cmd: []string{"sh", "-c", "sleep 4321 & sleep 4321"}, Timeout: 1})
	if took := time.Since(begin); status.Code(err) != codes.DeadlineExceeded || took > harness.Patience(harness.LongEnough) {
		t.Errorf("after %s: %v", took, err)
	}
	harness.Eventually(t, "nothing of the probe is left", func() bool {
		code, _ := exec(t, c, "sh", "-c", "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -q 'sleep 432[1]'")
		return code == 1
	})
	_, err = n.Daemon.Runtime.ExecSync(harness.Context(t), &runtime.ExecSyncRequest{ContainerId: c.ID, Cmd: []string{"no-such-program"}, Timeout: 10})
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "no-such-program") {
		t.Errorf("a program that is not there: %v", err)
	}
	c.Stop(t, 90)
	if _, code := c.Ended(t); code != 3 {
		t.Errorf("code %d", code)
	}
}
