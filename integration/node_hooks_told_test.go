package integration

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// tellings counts how often the journal has that a hook of the node, by stage and file, failed.
func (h *hostHooks) tellings(t *testing.T, c *harness.Container, stage, file string) (n int) {
	t.Helper()
	for _, word := range hookStory(t, h.Node, c) {
		if strings.HasPrefix(word, "hook the node's "+stage+" hook "+file) && strings.HasSuffix(word, " failed") {
			n++
		}
	}
	return n
}

// What became of hooks stands in journal, log and metrics once, however many daemons there are.
func TestFailedNodeHooksAreToldOnce(t *testing.T) {
	metrics, address := metricsOption(t)
	h := withHooks(t, metrics)
	h.script(t, "50-bad.json", "poststop", 10, "exit 3")
	p := h.RunPod(t)
	c := p.Run(t, "app", harness.Sh("exit 5"))
	c.Ended(t)
	c.Stop(t, 0)
	counter := `cri_pouch_node_hook_failures_total{stage="poststop"}`
	if n, got := h.tellings(t, c, "poststop", "50-bad.json"), metric(t, address, counter); n != 1 || got != "1" {
		t.Errorf("it was told %d times and counted %s times", n, got)
	}
	h.TerminateDaemon(t)
	h.StartDaemon(t)
	c.Stop(t, 0) // it waits until the daemon has looked at the container
	if n, got := h.tellings(t, c, "poststop", "50-bad.json"), metric(t, address, counter); n != 1 || got != "0" {
		t.Errorf("with the next daemon it was told %d times, which counts it %s times", n, got)
	}
	if n := strings.Count(h.Daemon.LogTail(1<<20), "the node's poststop hook"); n != 1 {
		t.Errorf("the daemons' log has it %d times", n)
	}
}

// A hook that fails a start which the daemon's death has cut off is told by the next daemon: no answer has it.
func TestANodeHookThatFailsWithoutADaemonIsTold(t *testing.T) {
	for _, stage := range []string{"createRuntime", "startContainer"} {
		t.Run(stage, func(t *testing.T) {
			metrics, address := metricsOption(t)
			h := withHooks(t, metrics)
			dir := openDir(t)
			h.script(t, "20-slow.json", stage, 20, "exec 2>&1; : > "+filepath.Join(dir, "begun")+"; while [ ! -e "+filepath.Join(dir, "go")+" ]; do sleep 0.05; done; exit 5")
			h.declare(t, "30-stop.json", declaration(always, h.program, []string{"poststop"}, "poststop"))
			c := h.RunPod(t).Create(t, "app", func(c *runtime.ContainerConfig) {
				c.Mounts = []*runtime.Mount{{HostPath: dir, ContainerPath: dir}}
			})
			failed := make(chan error, 1)
			go func() { failed <- tryStart(t, c) }()
			awaitFile(t, filepath.Join(dir, "begun"))
			h.KillDaemon(t)
			<-failed
			touch(t, filepath.Join(dir, "go"))
			harness.Eventually(t, "the shim has given up", func() bool { return slices.Equal(said(h.notes(t)), []string{"poststop"}) })
			counter := `cri_pouch_node_hook_failures_total{stage="` + stage + `"}`
			for _, want := range []string{"1", "0"} {
				h.StartDaemon(t)
				harness.Eventually(t, "it is told", func() bool { return h.tellings(t, c, stage, "20-slow.json") > 0 })
				if n, got := h.tellings(t, c, stage, "20-slow.json"), metric(t, address, counter); n != 1 || got != want {
					t.Errorf("it was told %d times, and counted %s times, not %s", n, got, want)
				}
				h.KillDaemon(t)
			}
			h.StartDaemon(t)
		})
	}
}
