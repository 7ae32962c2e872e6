package integration

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

const mib = 1 << 20

// limited gives a container resources.
func limited(r *runtime.LinuxContainerResources) func(*runtime.ContainerConfig) {
	return func(c *runtime.ContainerConfig) {
		c.Linux = &runtime.LinuxContainerConfig{SecurityContext: c.GetLinux().GetSecurityContext(), Resources: r}
	}
}

func updateLimits(t *testing.T, c *harness.Container, r *runtime.LinuxContainerResources) error {
	t.Helper()
	_, err := c.Pod.Node.Daemon.Runtime.UpdateContainerResources(harness.Context(t), &runtime.UpdateContainerResourcesRequest{ContainerId: c.ID, Linux: r})
	return err
}

// limitFile gives what stands in the first of these files of the container's cgroup that is there; empty: none is.
func limitFile(t *testing.T, c *harness.Container, files ...string) string {
	t.Helper()
	script := "cd /sys/fs/cgroup; for f in " + strings.Join(files, " ") + `; do [ ! -e "$f" ] || { cat "$f"; exit; }; done`
	return strings.TrimSpace(c.Exec(t, "sh", "-c", script))
}

// memoryLimits gives the limits of memory, and of memory and swap together; -1: there is none, 0: swap cannot be limited.
func memoryLimits(t *testing.T, c *harness.Container) (memory, swap int64) {
	t.Helper()
	number := func(s string) int64 {
		if s == "max" || s == "" {
			return -1
		}
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if n > 1<<60 {
			return -1
		}
		return n
	}
	memory = number(limitFile(t, c, "memory/memory.limit_in_bytes", "memory.max"))
	both, only := limitFile(t, c, "memory/memory.memsw.limit_in_bytes"), limitFile(t, c, "memory.swap.max")
	switch {
	case both != "":
		return memory, number(both)
	case only == "":
		return memory, 0
	}
	if swap = number(only); swap >= 0 {
		swap += memory
	}
	return memory, swap
}

// Memory, and memory with swap, hold each other: on cgroup v1 neither can pass the other on its way up or down.
func TestMemoryLimitsGoUpAndDownTogether(t *testing.T) {
	n := harness.Start(t)
	n.Pull(t, harness.Busybox)
	c := n.RunPod(t).Run(t, "app", limited(&runtime.LinuxContainerResources{MemoryLimitInBytes: 64 * mib, MemorySwapLimitInBytes: 64 * mib}))
	check := func(what string, memory, swap int64) {
		t.Helper()
		gotMemory, gotSwap := memoryLimits(t, c)
		if gotMemory != memory || gotSwap != swap && gotSwap != 0 {
			t.Errorf("%s: the kernel has %d and %d, want %d and %d", what, gotMemory, gotSwap, memory, swap)
		}
		if r := c.Status(t).GetResources().GetLinux(); r.GetMemoryLimitInBytes() != memory || r.GetMemorySwapLimitInBytes() != swap {
			t.Errorf("%s: the status says %d and %d, want %d and %d", what, r.GetMemoryLimitInBytes(), r.GetMemorySwapLimitInBytes(), memory, swap)
		}
	}
	check("at the start", 64*mib, 64*mib)
	for _, x := range []struct {
		what         string
		memory, swap int64 // of the request, 0: not named
		wantMemory   int64
		wantSwap     int64
	}{
		{"memory alone goes up", 96 * mib, 0, 96 * mib, 96 * mib},
		{"memory alone goes down", 32 * mib, 0, 32 * mib, 32 * mib},
		{"both go up, to some swap", 64 * mib, 128 * mib, 64 * mib, 128 * mib},
		{"memory alone goes up, the swap stays", 160 * mib, 0, 160 * mib, 224 * mib},
		{"memory alone goes down, the swap stays", 48 * mib, 0, 48 * mib, 112 * mib},
		{"both go up past the former ones", 128 * mib, 128 * mib, 128 * mib, 128 * mib},
		{"both go down past the former ones", 32 * mib, 48 * mib, 32 * mib, 48 * mib},
		{"swap alone goes down", 0, 32 * mib, 32 * mib, 32 * mib},
		{"swap alone goes up", 0, -1, 32 * mib, -1},
		{"memory goes up below unlimited swap", 64 * mib, 0, 64 * mib, -1},
		{"no limits", -1, -1, -1, -1},
		{"limits again", 64 * mib, 64 * mib, 64 * mib, 64 * mib},
	} {
		if err := updateLimits(t, c, &runtime.LinuxContainerResources{MemoryLimitInBytes: x.memory, MemorySwapLimitInBytes: x.swap}); err != nil {
			t.Fatalf("%s: %v", x.what, err)
		}
		check(x.what, x.wantMemory, x.wantSwap)
	}
	wantCode(t, updateLimits(t, c, &runtime.LinuxContainerResources{MemorySwapLimitInBytes: 32 * mib}), codes.InvalidArgument, c.ID)
	check("after swap below memory was refused", 64*mib, 64*mib)
	if limitFile(t, c, "memory/memory.limit_in_bytes") != "" { // cgroup v2 kills instead
		wantCode(t, updateLimits(t, c, &runtime.LinuxContainerResources{MemoryLimitInBytes: 4096}), codes.InvalidArgument, c.ID)
		check("after less than is in use was refused", 64*mib, 64*mib)
	}
}

// What stands in resources.unified is kept key by key, and memory.high goes down before memory.max.
func TestUnifiedLimitsAreKeptKeyByKey(t *testing.T) {
	n := harness.Start(t)
	n.Pull(t, harness.Busybox)
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		t.Skip("resources.unified needs cgroup v2")
	}
	c := n.RunPod(t).Run(t, "app", limited(&runtime.LinuxContainerResources{
		MemoryLimitInBytes: 64 * mib, Unified: map[string]string{"memory.high": "50331648", "memory.low": "1048576"},
	}))
	for _, x := range []struct{ limit, high int64 }{{96 * mib, 80 * mib}, {32 * mib, 24 * mib}} {
		high := strconv.FormatInt(x.high, 10)
		err := updateLimits(t, c, &runtime.LinuxContainerResources{MemoryLimitInBytes: x.limit, Unified: map[string]string{"memory.high": high}})
		if err != nil {
			t.Fatal(err)
		}
		if got := limitFile(t, c, "memory.high"); got != high {
			t.Errorf("memory.high is %s, want %s", got, high)
		}
		if got, _ := memoryLimits(t, c); got != x.limit {
			t.Errorf("memory.max is %d, want %d", got, x.limit)
		}
		if u := c.Status(t).GetResources().GetLinux().GetUnified(); u["memory.high"] != high || u["memory.low"] != "1048576" {
			t.Errorf("the status says %v", u)
		}
	}
}

// A share of the CPU is quota by period; on cgroup v1 neither of the steps to another share may be above the pod's.
func TestCPULimitsGoUpAndDownTogether(t *testing.T) {
	n := harness.Start(t)
	n.Pull(t, harness.Busybox)
	p := n.RunPod(t, harness.OwnCgroup(t, n))
	c := p.Run(t, "app", limited(&runtime.LinuxContainerResources{CpuQuota: 50000, CpuPeriod: 100000}))
	v1 := false
	for _, dir := range harness.PodCgroups(t, n, p.Config) {
		for file, value := range map[string]string{"cpu.cfs_quota_us": "100000", "cpu.max": "100000 100000"} {
			if _, err := os.Stat(filepath.Join(dir, file)); err != nil {
				continue
			}
			v1 = v1 || file == "cpu.cfs_quota_us"
			if err := os.WriteFile(filepath.Join(dir, file), []byte(value), 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	check := func(quota, period int64) {
		t.Helper()
		got := limitFile(t, c, "cpu.max")
		if v1 {
			got = limitFile(t, c, "cpu/cpu.cfs_quota_us") + " " + limitFile(t, c, "cpu/cpu.cfs_period_us")
		}
		if want := strconv.FormatInt(quota, 10) + " " + strconv.FormatInt(period, 10); got != want {
			t.Errorf("quota and period are %q, want %q", got, want)
		}
		if r := c.Status(t).GetResources().GetLinux(); r.GetCpuQuota() != quota || r.GetCpuPeriod() != period {
			t.Errorf("the status says %v", r)
		}
	}
	check(50000, 100000)
	for _, x := range [][2]int64{{5000, 10000}, {90000, 100000}, {9000, 10000}, {900000, 1000000}, {1000, 1000}, {50000, 100000}} {
		if err := updateLimits(t, c, &runtime.LinuxContainerResources{CpuQuota: x[0], CpuPeriod: x[1]}); err != nil {
			t.Fatalf("quota %d, period %d: %v", x[0], x[1], err)
		}
		check(x[0], x[1])
	}
	if v1 {
		wantCode(t, updateLimits(t, c, &runtime.LinuxContainerResources{CpuQuota: 200000}), codes.InvalidArgument, c.ID)
		check(50000, 100000)
	}
}
