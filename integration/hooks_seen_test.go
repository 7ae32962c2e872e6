package integration

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// What became of hooks, the pod's and the node's, is printed by inspect, and counted by the metrics of the daemon.
func TestHooksAreSeenByInspectAndMetrics(t *testing.T) {
	metrics, address := metricsOption(t)
	h := withHooks(t, metrics)
	h.script(t, "10-good.json", "createRuntime", 10, "echo fine; exit 0")
	h.script(t, "20-bad.json", "poststop", 10, "echo busy >&2; exit 3")
	broken := filepath.Join(h.dir, "30-broken.json")
	h.write(t, broken, 0o644, "{")
	h.await(t, broken, func(f *pouchv1.HookFile) bool { return f.GetError() != "" })
	for state, want := range map[string]string{"used": "2", "invalid": "1"} {
		if got := metric(t, address, `cri_pouch_node_hook_files{state="`+state+`"}`); got != want {
			t.Errorf("%q files are %s, want %s", got, state, want)
		}
	}
	p := h.RunPod(t, hooks(t, prestartKey, shell("first", "echo one; exit 2", "onFailure", "ignore")), hooks(t, poststopKey, shell("last", "echo two")))
	c := p.Run(t, "app", harness.Sh("exit 6"))
	c.Ended(t)
	harness.Eventually(t, "the node's hook after the end is reported", func() bool { return len(infoOf(t, c).NodeHooks) == 2 })
	var told struct {
		Status struct{ ExitCode int32 }
		Info   harness.Told
	}
	if err := json.Unmarshal([]byte(commandLine(t, h.Node, 0, "inspect", c.ID)), &told); err != nil {
		t.Fatal(err)
	}
	if got, want := outcomes(told.Info.Hooks), []string{"prestart first failed", "poststop last succeeded"}; !slices.Equal(got, want) || told.Status.ExitCode != 6 {
		t.Fatalf("inspect prints %+v", told)
	}
	if r := told.Info.Hooks; r[0].Output != "one\n" || r[0].ExitCode != 2 || !r[0].Ignored || r[0].Duration <= 0 || r[1].Output != "two\n" || r[1].ExitCode != 0 || r[1].StartedAt.Before(r[0].StartedAt) {
		t.Errorf("inspect prints %+v", r)
	}
	of := outcomes(told.Info.NodeHooks)
	if r := told.Info.NodeHooks; len(r) != 2 || !strings.HasPrefix(of[0], "createRuntime ") || !strings.HasSuffix(of[0], " succeeded") || !strings.HasPrefix(of[1], "poststop ") || !strings.HasSuffix(of[1], " failed") ||
		r[1].ExitCode != 3 || r[1].Output != "busy\n" || !strings.Contains(of[1], "20-bad.json") {
		t.Errorf("inspect prints of the node's hooks %+v", r)
	}

	h.script(t, "05-bad.json", "createRuntime", 10, "exit 4")
	if err := tryStart(t, p.Create(t, "app", image(harness.Busybox, 1))); err == nil {
		t.Error("a start whose hook failed has succeeded")
	}
	for name, want := range map[string]string{
		`cri_pouch_node_hook_failures_total{stage="createRuntime"}`:  "1",
		`cri_pouch_node_hook_failures_total{stage="startContainer"}`: "0",
		`cri_pouch_hook_failures_total{stage="prestart"}`:            "1",
		`cri_pouch_hook_failures_total{stage="poststop"}`:            "0",
	} {
		if got := metric(t, address, name); got != want {
			t.Errorf("%s is %q, want %s", name, got, want)
		}
	}
	// The second one's end comes with the answer, its hooks after it.
	harness.Eventually(t, "both ends are counted", func() bool {
		return metric(t, address, `cri_pouch_node_hook_failures_total{stage="poststop"}`) == "2"
	})
}
