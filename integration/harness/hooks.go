package harness

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/lab"
	"github.com/cri-pouch/cri-pouch/internal/hookrun"
)

// Hook is one hook as a pod's author writes it.
type Hook map[string]any

// ShellHook is a hook that runs a script; pairs are further fields and their values.
func ShellHook(name, script string, pairs ...any) Hook {
	h := Hook{"name": name, "exec": []string{"sh", "-c", script}}
	for i := 0; i < len(pairs); i += 2 {
		h[pairs[i].(string)] = pairs[i+1]
	}
	return h
}

// StubbornHook is a hook that never ends: it ignores what asks it to, and so do the daemons that it has put into sessions of
// their own. Each of its processes has mark as an argument (Marked). It prints "begun" when all of them run.
func StubbornHook(name, mark string, pairs ...any) Hook {
	const daemon = `trap "" TERM INT HUP; echo >>/tmp/daemons; while :; do sleep 0.2; done`
	script := fmt.Sprintf(`trap "" TERM INT HUP; rm -f /tmp/daemons
for i in 1 2 3; do setsid sh -c '%s' daemon %[2]s & (setsid sh -c '%[1]s' daemon %[2]s &); done
until [ "$(wc -l </tmp/daemons)" -eq 6 ]; do sleep 0.05; done 2>/dev/null
echo begun; while :; do sleep 0.2; done`, daemon, mark)
	h := ShellHook(name, script, pairs...)
	h["exec"] = append(h["exec"].([]string), "hook", mark)
	return h
}

// Marked gives the processes of this machine that have mark as an argument.
func Marked(t testing.TB, mark string) []int {
	t.Helper()
	pids, err := lab.WithCommand(func(args []string) bool { return slices.Contains(args, mark) })
	if err != nil {
		t.Fatal(err)
	}
	return pids
}

// Gigabyte is a script that prints a GiB and then "the end".
const Gigabyte = "dd if=/dev/zero bs=1048576 count=1024 2>/dev/null; echo; echo the end"

// Hooks declares the hooks of a stage.
func Hooks(t testing.TB, stage hookrun.Stage, list ...Hook) func(*runtime.PodSandboxConfig) {
	t.Helper()
	b, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	return func(c *runtime.PodSandboxConfig) {
		if c.Annotations == nil {
			c.Annotations = map[string]string{}
		}
		c.Annotations["hooks.cri-pouch.io/"+string(stage)] = string(b)
	}
}

// Told is what a container's verbose status tells of hooks.
type Told struct {
	Hooks     []hookrun.Result // the pod's
	NodeHooks []hookrun.Result
}

// Told asks for the container's verbose status.
func (c *Container) Told(t testing.TB) (told Told) {
	t.Helper()
	r, err := c.Pod.Node.Daemon.Runtime.ContainerStatus(Context(t), &runtime.ContainerStatusRequest{ContainerId: c.ID, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(r.Info["info"]), &told); err != nil {
		t.Fatal(err)
	}
	return told
}

// Outcomes is what became of hooks, as "prestart routes succeeded".
func Outcomes(results []hookrun.Result) (all []string) {
	for _, r := range results {
		all = append(all, string(r.Stage)+" "+r.Name+" "+string(r.Outcome))
	}
	return all
}

// ShimMemory is the most memory that one of the node's shims has held so far, in bytes.
func (n *Node) ShimMemory(t testing.TB) (most int64) {
	t.Helper()
	pids, err := n.Daemon.Shims()
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			continue // a keeper that has ended
		}
		if m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(b); m != nil {
			kib, _ := strconv.ParseInt(string(m[1]), 10, 64)
			most = max(most, kib<<10)
		}
	}
	return most
}
