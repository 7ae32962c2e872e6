package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"

	"github.com/cri-pouch/cri-pouch/integration/bench"
	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// The benchmark runs, gives every figure, and leaves nothing. How long anything took is no matter of a test.
func TestTheBenchmarkMeasuresCriPouchAlone(t *testing.T) {
	binary, plugins := harness.Programs(t)
	report, err := bench.Run(t.Context(), bench.Options{Binary: binary, CNIBin: plugins, Rounds: 1, Burst: 2, Lines: 100, Say: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Figures) < 25 || len(report.Runtimes) != 1 || report.Runtimes[0].Version == "" {
		t.Errorf("runtimes %v, %d figures", report.Runtimes, len(report.Figures))
	}
	for _, f := range report.Figures {
		if v, measured := f.Medians["cri-pouch"]; !measured || v < 0 || v == 0 && f.Unit == "ms" {
			t.Errorf("%s is %v", f.Name, v)
		}
	}
	if text := report.Markdown(time.Now()) + report.Ratios(); !strings.Contains(text, "| RunPodSandbox, CNI | ms | ") || !strings.Contains(text, "without an upgrade") {
		t.Errorf("the report reads\n%s", text)
	}
	checkNothingLeft(t, report.Lab)
}

func TestABenchmarkThatIsCutOffLeavesNothing(t *testing.T) {
	binary, plugins := harness.Programs(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	name := ""
	say := func(format string, args ...any) {
		if dir, ok := strings.CutPrefix(fmt.Sprintf(format, args...), "starting cri-pouch in "); ok {
			name, _, _ = strings.Cut(filepath.Base(dir), "-")
			// Pods are up by then, or coming up; where it is cut off makes no difference.
			time.AfterFunc(1500*time.Millisecond, cancel)
		}
	}
	_, err := bench.Run(ctx, bench.Options{Binary: binary, CNIBin: plugins, Rounds: 100000, Burst: 3, Lines: 100, Only: "pods on CNI", Say: say})
	if ctx.Err() == nil || err == nil || name == "" {
		t.Fatalf("it went on: %v", err)
	}
	checkNothingLeft(t, name)
}

// checkNothingLeft fails the test for each mount, process, cgroup, link and folder that carries a lab's name.
func checkNothingLeft(t *testing.T, name string) {
	t.Helper()
	mounts, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) { return !strings.Contains(i.Mountpoint, name), false })
	if err != nil || len(mounts) > 0 {
		t.Errorf("mounts %v, %v", mounts, err)
	}
	for what, pattern := range map[string]string{
		"folder": filepath.Join(os.TempDir(), name+"*"), "cgroup": "/sys/fs/cgroup/*/" + name, "cgroup of v2": "/sys/fs/cgroup/" + name,
		"link": "/sys/class/net/" + name, "CNI result": "/var/lib/cni/results/" + name + "*",
	} {
		if left, err := filepath.Glob(pattern); err != nil || len(left) > 0 {
			t.Errorf("%s %v, %v", what, left, err)
		}
	}
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range lines {
		if line, err := os.ReadFile(path); err == nil && strings.Contains(string(line), name) {
			t.Errorf("process %s: %q", path, line)
		}
	}
}
