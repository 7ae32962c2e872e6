package rich

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
	"github.com/cri-pouch/cri-pouch/internal/hookrun"
)

// Hooks belong to the application: they have its user, environment and view, whatever init is pid 1, and come before and after
// all that the init does.
func hooksAreTheApplications(t *testing.T, n *harness.Node, m machine, ref string) {
	declare := func(key, name string, argv ...string) func(*runtime.PodSandboxConfig) {
		text, err := json.Marshal([]map[string]any{{"name": name, "exec": argv, "env": map[string]string{"HOOK": "hook's"}}})
		if err != nil {
			t.Fatal(err)
		}
		return func(c *runtime.PodSandboxConfig) { c.Annotations["hooks.cri-pouch.io/"+key] = string(text) }
	}
	p := n.RunPod(t, pod(m.mode),
		declare("prestart", "before", "sh", "-c", `echo made >/made; echo "$OWN $HOOK $(id -u) $(pwd)"; cat /proc/1/comm; cat /proc/net/dev`),
		declare("poststop", "after", "sh", "-c", `cat /made; echo "$OWN $HOOK $POUCH_EXIT_CODE $POUCH_REASON $(id -u) $$"; cat /proc/net/dev`))
	c := p.Run(t, "app", probe(ref, "say=up", "exit=7"), func(c *runtime.ContainerConfig) {
		c.Envs = []*runtime.KeyValue{variable("OWN", "own")}
		c.WorkingDir = "/usr/local"
	})
	if _, code := c.Ended(t); code != 7 {
		t.Errorf("code %d", code)
	}
	resp, err := n.Daemon.Runtime.ContainerStatus(harness.Context(t), &runtime.ContainerStatusRequest{ContainerId: c.ID, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	var info struct {
		Hooks []hookrun.Result `json:"hooks"`
	}
	if err := json.Unmarshal([]byte(resp.Info["info"]), &info); err != nil {
		t.Fatal(err)
	}
	if len(info.Hooks) != 2 || slices.ContainsFunc(info.Hooks, func(r hookrun.Result) bool { return r.Outcome != hookrun.Succeeded }) {
		t.Fatalf("results are %+v", info.Hooks)
	}
	before, after := info.Hooks[0].Output, info.Hooks[1].Output
	if !strings.HasPrefix(before, "own hook's 0 /usr/local\n") || strings.Contains(before, "systemd\n") || !strings.Contains(before, "eth0:") {
		t.Errorf("the first hook saw %q", before)
	}
	if !strings.HasPrefix(after, "made\nown hook's 7 Error 0 ") || !strings.Contains(after, "eth0:") {
		t.Errorf("the second hook saw %q", after)
	}
}
