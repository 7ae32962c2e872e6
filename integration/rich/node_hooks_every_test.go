package rich

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
	"github.com/cri-pouch/cri-pouch/internal/hookrun"
)

// nodeHook is the annotation by which a pod of these tests chooses hooks of the node.
const nodeHook = "example.com/node-hook"

// failingStages hold up a start, and so does what is late in one of them; lateStages are enough of them, for each takes a second.
var (
	failingStages = []hookrun.Stage{hookrun.Prestart, hookrun.CreateRuntime, hookrun.CreateContainer, hookrun.StartContainer, hookrun.Poststart}
	lateStages    = []hookrun.Stage{hookrun.CreateContainer, hookrun.StartContainer}
)

func choosing(which string) func(*runtime.PodSandboxConfig) {
	return func(c *runtime.PodSandboxConfig) { c.Annotations[nodeHook] = which }
}

// startHookNode gives a node with hooks that note what they see, that fail and that are late, in every stage.
func startHookNode(t *testing.T) *hookNode {
	t.Helper()
	top := t.TempDir()
	dir := filepath.Join(top, "hooks.d")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	declare := func(which string, stage hookrun.Stage, seconds int, script string) {
		path, args := filepath.Join(top, which+"-"+string(stage)), []string{"hook"}
		if stage == hookrun.StartContainer { // its program is the container's
			path, args = "/bin/sh", []string{"sh", "-c", script, top}
		} else if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(map[string]any{
			"version": "1.0.0", "stages": []hookrun.Stage{stage},
			"hook": map[string]any{"path": path, "args": args, "timeout": seconds, "env": []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}},
			"when": map[string]any{"annotations": map[string]string{"^example\\.com/node-hook$": "^" + which + "$"}},
		})
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, which+"-"+string(stage)+".json"), text, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, stage := range failingStages {
		declare("fail-"+string(stage), stage, 10, "echo no such device >&2; exit 7")
	}
	for _, stage := range lateStages {
		declare("late-"+string(stage), stage, 1, fmt.Sprintf(`trap "" TERM INT HUP; echo waiting; sh -c 'trap "" TERM; while :; do sleep 0.2; done' late %s & while :; do sleep 0.2; done`, top))
	}
	declare("see", hookrun.CreateContainer, 10, fmt.Sprintf(`state=$(cat)
for ns in mnt net pid ipc uts user; do spaces="$spaces, \"$ns\": \"$(readlink /proc/self/ns/$ns)\""; done
echo "{\"state\": $state, \"uid\": \"$(id -u)\"$spaces}" >%s/seen`, top))
	declare("see", hookrun.Poststop, 10, "echo a hook of the node fails after the end; exit 3")
	return &hookNode{harness.Start(t, harness.Config(fmt.Sprintf("[hooks]\nhooks_dirs = [%q]\ngrants = [\"shop=NET_ADMIN,uid:0\"]\n", dir))), top}
}

// A createContainer hook is in the namespaces in which the init runs then, and reads the state of the container on stdin. One
// after the end that fails changes nothing about it.
func theNodesHooksSeeTheContainer(t *testing.T, n *hookNode, m hookMachine, ref string) {
	c := n.RunPod(t, pod(m.mode), choosing("see")).Run(t, "app", probe(ref, "wait", "exit=5"))
	c.AwaitLine(t, boot, "waiting")
	text, err := os.ReadFile(filepath.Join(n.dir, "seen"))
	var state struct{ State specs.State }
	spaces := map[string]any{}
	for _, into := range []any{&state, &spaces} {
		if err == nil {
			err = json.Unmarshal(text, into)
		}
	}
	if err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	for _, ns := range []string{"mnt", "net", "pid", "ipc", "uts", "user"} {
		if _, want := exec(t, c, "readlink", "/proc/1/ns/"+ns); spaces[ns] != want {
			t.Errorf("the hook was in %s, the init is in %s", spaces[ns], want)
		}
	}
	s := state.State
	if s.Version != specs.Version || s.ID != c.ID || s.Status != specs.StateCreating || s.Pid != 1 || filepath.Base(s.Bundle) != c.ID || spaces["uid"] != "0" {
		t.Errorf("the hook was told %s", text)
	}
	for key, want := range map[string]string{nodeHook: "see", prefix + "mode": m.mode, "io.kubernetes.cri.container-name": "app", "io.kubernetes.cri.sandbox-namespace": "lab"} {
		if got := s.Annotations[key]; got != want {
			t.Errorf("annotation %s is %q, want %q", key, got, want)
		}
	}
	c.Stop(t, 90)
	if _, code := c.Ended(t); code != 5 {
		t.Errorf("code %d", code)
	}
	harness.Eventually(t, "the hook after the end is reported", func() bool { return len(c.Told(t).NodeHooks) == 2 })
	if r := c.Told(t).NodeHooks[1]; r.Stage != hookrun.Poststop || r.Outcome != hookrun.Failed || r.ExitCode != 3 {
		t.Errorf("%+v", r)
	}
}

// A hook of the node that fails, or is late, keeps the init from running, or ends it: the error names file, code and words.
func theNodesHooksFailOrAreLate(t *testing.T, n *hookNode, m hookMachine, ref string) {
	try := func(which string, stage hookrun.Stage, parts ...string) {
		which += "-" + string(stage)
		t.Run(which, func(t *testing.T) {
			c := n.RunPod(t, pod(m.mode), choosing(which)).Create(t, "app", probe(ref, "say=up", "wait"))
			begin := time.Now()
			err := tryStart(t, c)
			if took := time.Since(begin); took > harness.Patience(harness.LongEnough) {
				t.Errorf("the answer took %s", took)
			}
			for _, part := range append(parts, string(stage), which+"-"+string(stage)+".json") {
				if err == nil || !strings.Contains(err.Error(), part) {
					t.Errorf("the error is %v, without %q", err, part)
				}
			}
			if s := c.Status(t); s.State != runtime.ContainerState_CONTAINER_EXITED || s.ExitCode != 128 || s.Reason != "StartError" || !strings.Contains(s.Message, which) {
				t.Errorf("the container is %v", s)
			}
			harness.Eventually(t, "nothing of hook and container is left", func() bool {
				left, err := n.Processes()
				return err == nil && len(left) == 0 && len(harness.Marked(t, n.dir)) == 0
			})
		})
	}
	for _, stage := range failingStages {
		try("fail", stage, "failed with exit code 7", "no such device")
	}
	for _, stage := range lateStages {
		try("late", stage, "timed out after 1", "waiting")
	}
}
