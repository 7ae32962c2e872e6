package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// Mounts of a container do not survive a reboot: whatever it was doing, its poststop hooks are reported as skipped, in its
// message and the metrics. The pod is ended, and another one takes its place.
func TestAnEndThatIsFoundAfterARebootSkipsPoststopHooks(t *testing.T) {
	metrics, address := metricsOption(t)
	n := harness.Start(t, metrics)
	dir := t.TempDir()
	script := map[string]string{"runs": "exec sleep 1000", "has-ended": "until [ -e /witness/end ]; do sleep 0.05; done; exit 4"}
	p := n.RunPod(t, hooks(t, poststopKey, shell("clean", "echo $POUCH_EXIT_CODE >>/witness/cleaned"), shell("report", "touch /witness/reported")))
	containers := map[string]*harness.Container{}
	for name, script := range script {
		containers[name] = p.Run(t, name, witness(dir), harness.Sh(script))
	}
	n.KillDaemon(t)
	if err := os.WriteFile(filepath.Join(dir, "end"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, "the hooks of the one that has ended are done", func() bool { _, err := os.Stat(filepath.Join(dir, "reported")); return err == nil })
	if err := n.Reboot(harness.Context(t)); err != nil {
		t.Fatal(err)
	}
	n.StartDaemon(t)
	for name, c := range containers {
		c.Ended(t)
		s, r := c.Status(t), hookResults(t, c)
		if got, want := outcomes(r), []string{"poststop clean skipped", "poststop report skipped"}; !slices.Equal(got, want) {
			t.Errorf("%s: results are %+v", name, r)
		}
		if s.Reason != "Lost" || s.ExitCode != 255 || !strings.Contains(s.Message, `poststop hook "clean" was skipped: the container's mounts are gone, for the node was restarted`) {
			t.Errorf("%s is %v", name, s)
		}
	}
	if got := metric(t, address, `cri_pouch_hook_failures_total{stage="poststop"}`); got != "4" {
		t.Errorf("%s hooks are counted as failed", got)
	}
	if b, _ := os.ReadFile(filepath.Join(dir, "cleaned")); string(b) != "4\n" {
		t.Errorf("the hooks that ran wrote %q", b)
	}
	if s := p.Status(t); s.State != runtime.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("the pod is %s", s.State)
	}
	next := n.RunPod(t, hooks(t, poststopKey, shell("clean", "true"))).Run(t, "app", harness.Sh("exit 0"))
	next.Ended(t)
	if got := outcomes(hookResults(t, next)); !slices.Equal(got, []string{"poststop clean succeeded"}) {
		t.Errorf("of the next pod: %q", got)
	}
}
