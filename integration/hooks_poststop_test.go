package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
	"github.com/cri-pouch/cri-pouch/internal/hookrun"
)

// A poststop hook that outlives its time is killed with all that it has started, whatever that ignores. One that leaves daemons
// has succeeded, and they end with it. Of a GiB of output its end is kept.
func TestPoststopHooksThatAreLateForkOrPrintAGigabyte(t *testing.T) {
	n := harness.Start(t)
	dir := t.TempDir()
	p := n.RunPod(t, hooks(t, poststopKey, harness.StubbornHook("slow", dir, "timeout", "4s"),
		shell("forks", fmt.Sprintf("for i in 1 2 3; do setsid sh -c 'sleep 12345; :' daemon %s & (setsid sh -c 'sleep 12345; :' daemon %[1]s &); done; echo forked", dir), "timeout", "10s"),
		shell("loud", harness.Gigabyte, "timeout", "45s")))
	c := p.Run(t, "app", harness.Sh("exit 3"))
	c.Ended(t)
	r := hookResults(t, c)
	if got, want := strings.Join(outcomes(r), ", "), "poststop slow timeout, poststop forks succeeded, poststop loud succeeded"; got != want {
		t.Fatalf("%q: %+v", got, r)
	}
	if r[0].Output != "begun\n" || r[0].Duration < 4*time.Second || r[1].Output != "forked\n" {
		t.Errorf("results are %+v", r[:2])
	}
	if tail := r[2].Output; len(tail) > hookrun.OutputMax || !strings.HasSuffix(tail, "\nthe end\n") {
		t.Errorf("of a GiB %d bytes are kept, which end with %q", len(tail), tail[max(len(tail)-20, 0):])
	}
	if most := n.ShimMemory(t); most > 256<<20 {
		t.Errorf("the shim has taken %d MiB", most>>20)
	}
	if left := harness.Marked(t, dir); len(left) > 0 {
		t.Errorf("processes of hooks go on: %v", left)
	}
	if s := c.Status(t); s.ExitCode != 3 || !strings.HasPrefix(s.Message, `poststop hook "slow" timed out after 4s: begun`) {
		t.Errorf("the end is %v", s)
	}
}

// A successor, and who stops the pod, waits for a poststop hook that is late no longer than its timeout. What it has started is
// gone before the successor's program runs.
func TestNobodyWaitsLongerThanAPoststopHooksTimeout(t *testing.T) {
	n := harness.Start(t)
	dir := t.TempDir()
	p := n.RunPod(t, hooks(t, poststopKey, harness.StubbornHook("slow", dir, "timeout", "5s")))
	first := p.Run(t, "app")
	second := p.Create(t, "app", image(harness.Busybox, 1))
	stopped := make(chan error, 1)
	go func() {
		_, err := n.Daemon.Runtime.StopContainer(harness.Context(t), &runtime.StopContainerRequest{ContainerId: first.ID})
		stopped <- err
	}()
	late := func(c *harness.Container) {
		t.Helper()
		if left := harness.Marked(t, dir); len(left) > 0 {
			t.Errorf("processes of the hook go on: %v", left)
		}
		if r := hookResults(t, c); len(r) != 1 || r[0].Outcome != hookrun.TimedOut || r[0].Output != "begun\n" || r[0].Duration != 5*time.Second || r[0].Message != "" {
			t.Errorf("results are %+v, want one that its own timeout ended", r)
		}
	}
	harness.Eventually(t, "the hook runs", func() bool { return len(harness.Marked(t, dir)) >= 7 })
	second.Start(t)
	late(first)
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if a, b := first.Status(t), second.Status(t); b.StartedAt < a.FinishedAt+int64(5*time.Second) || b.State != runtime.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the first ended at %d, the second began at %d and is %s", a.FinishedAt, b.StartedAt, b.State)
	}
	if _, err := n.Daemon.Runtime.StopPodSandbox(harness.Context(t), &runtime.StopPodSandboxRequest{PodSandboxId: p.ID}); err != nil {
		t.Error(err)
	}
	late(second)
}

// A container that has joined another one's pid namespace ends by itself, or with that one; its poststop hook runs in a
// namespace of its own, for the other one may have ended by then.
func TestPoststopHooksOfAContainerInAnothersPIDNamespace(t *testing.T) {
	n := harness.Start(t)
	for name, test := range map[string]struct {
		end  string // the container that is made to end
		told string
	}{"ends by itself": {"debug", "4 Error\n"}, "ends with the other one": {"target", "137 Error\n"}} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			until := func(who string) string {
				return fmt.Sprintf("until [ -e /witness/end-%s ]; do sleep 0.05; done; exit 4", who)
			}
			p := n.RunPod(t, hooks(t, poststopKey+".debug", shell("tell", "echo $POUCH_EXIT_CODE $POUCH_REASON; readlink /proc/self/ns/pid; ps -o args | grep -c 'end-targe[t]'")))
			target := p.Run(t, "target", witness(dir), harness.Sh(until("target")))
			debug := p.Run(t, "debug", witness(dir), harness.Sh(until("debug")), func(c *runtime.ContainerConfig) {
				o := c.Linux.SecurityContext.NamespaceOptions
				o.Pid, o.TargetId = runtime.NamespaceMode_TARGET, target.ID
			})
			pids := debug.Exec(t, "readlink", "/proc/self/ns/pid")
			if own := target.Exec(t, "readlink", "/proc/self/ns/pid"); own != pids {
				t.Fatalf("the namespaces are %s and %s", own, pids)
			}
			if err := os.WriteFile(filepath.Join(dir, "end-"+test.end), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			debug.Ended(t)
			r := hookResults(t, debug)
			if len(r) != 1 || !strings.HasPrefix(r[0].Output, test.told) || strings.Contains(r[0].Output, pids) || !strings.HasSuffix(r[0].Output, "\n0\n") {
				t.Errorf("results are %+v, the shared namespace was %s", r, pids)
			}
			if s := target.Status(t); (s.State == runtime.ContainerState_CONTAINER_RUNNING) != (test.end == "debug") {
				t.Errorf("the other one is %s", s.State)
			}
		})
	}
}
