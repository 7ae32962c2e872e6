package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
	"github.com/cri-pouch/cri-pouch/integration/lab"
	"github.com/cri-pouch/cri-pouch/internal/hookrun"
)

// richModes are the modes that run with busybox: that of systemd is tested with its images.
var richModes = []string{"none", "dumb-init", "sbin-init"}

// Hooks run in the container's own view, one after the other, before its program: with its files, volumes, network,
// environment, user and limits.
func TestPrestartHooksSeeTheContainerBeforeItsProgram(t *testing.T) {
	n := harness.Start(t)
	ref := pushBusybox(t, n, "hooks:init", func(*v1.ConfigFile) {}, lab.BusyboxInit()...)
	for _, mode := range richModes {
		t.Run(mode, func(t *testing.T) {
			dir := t.TempDir()
			p := n.RunPod(t, annotated(richMode, mode), hooks(t, prestartKey,
				shell("first", "echo first >>/made; ip addr; ip route; cat /proc/self/cgroup; pwd; id -u; cat /sys/class/net/eth0/address"),
				shell("second", `echo second >>/made; cp /made /witness/made; echo "$OWN $HOOK $POUCH_ATTEMPT ${POUCH_UPGRADE-none}"; tr '\0' ' ' </proc/1/cmdline`, "env", map[string]string{"HOOK": "hook's"}),
				shell("third", "exit 3", "onFailure", "ignore", "timeout", "20s"),
			))
			c := p.Run(t, "app", image(ref, 2), witness(dir), harness.Sh("cat /made; while :; do sleep 1; done"), func(c *runtime.ContainerConfig) {
				c.WorkingDir = "/usr"
				c.Envs = []*runtime.KeyValue{{Key: "OWN", Value: []byte("own")}}
			})
			c.AwaitLog(t, "second")
			if got := c.LogText(t); got != "first\nsecond\n" {
				t.Errorf("the program found %q", got)
			}
			results := hookResults(t, c)
			if got, want := outcomes(results), []string{"prestart first succeeded", "prestart second succeeded", "prestart third failed"}; !slices.Equal(got, want) {
				t.Fatalf("results are %+v", results)
			}
			for _, want := range []string{p.IP(t) + "/", "default via", "/hook\n", "\n/usr\n0\n"} {
				if !strings.Contains(results[0].Output, want) {
					t.Errorf("the first hook saw %q, no %q", results[0].Output, want)
				}
			}
			if got := results[1].Output; !strings.HasPrefix(got, "own hook's 2 none\n") || strings.Contains(got, "while :") || strings.Contains(got, "busybox") {
				t.Errorf("the second hook saw %q", got)
			}
			if r := results[2]; r.ExitCode != 3 || !r.Ignored || r.Stage != hookrun.Prestart || r.StartedAt.IsZero() || r.Duration <= 0 {
				t.Errorf("the third is %+v", r)
			}
			if b, err := os.ReadFile(filepath.Join(dir, "made")); err != nil || string(b) != "first\nsecond\n" {
				t.Errorf("the volume has %q, %v", b, err)
			}
			c.Stop(t, 0)
			if m := c.Status(t).Message; !strings.Contains(m, `prestart hook "third" failed with exit code 3`) {
				t.Errorf("the message is %q", m)
			}
		})
	}
}

// A prestart hook that fails is why the start fails; the container has ended then, no poststop hook runs, and the next attempt
// finds nothing of it.
func TestAFailingPrestartHookFailsTheStart(t *testing.T) {
	n := harness.Start(t)
	ref := pushBusybox(t, n, "hooks:init", func(*v1.ConfigFile) {}, lab.BusyboxInit()...)
	for _, mode := range richModes {
		t.Run(mode, func(t *testing.T) {
			dir := t.TempDir()
			p := n.RunPod(t, annotated(richMode, mode),
				hooks(t, prestartKey, shell("check", "[ ! -e /dirty ] || echo dirty; touch /dirty; echo one; echo two >&2; exit 7"), shell("never", "touch /witness/never")),
				hooks(t, poststopKey, shell("clean", "touch /witness/cleaned")))
			for attempt := range uint32(2) {
				c := p.Create(t, "app", image(ref, attempt), witness(dir), harness.Sh("touch /witness/ran"))
				err := tryStart(t, c)
				wantCode(t, err, codes.Aborted, `prestart hook "check"`, "exit code 7", "one", "two")
				s := c.Status(t)
				if s.State != runtime.ContainerState_CONTAINER_EXITED || s.ExitCode != 128 || s.Reason != "StartError" || !strings.Contains(s.Message, `"check"`) || s.StartedAt == 0 {
					t.Errorf("the container is %v", s)
				}
				results := hookResults(t, c)
				if got, want := outcomes(results), []string{"prestart check failed", "prestart never skipped"}; !slices.Equal(got, want) {
					t.Fatalf("results are %+v", results)
				}
				if results[0].Output != "one\ntwo\n" {
					t.Errorf("attempt %d finds %q", attempt, results[0].Output)
				}
				if attempt == 0 {
					c.Remove(t)
				}
			}
			if left, _ := os.ReadDir(dir); len(left) > 0 {
				t.Errorf("what must not have run made %v", left)
			}
		})
	}
}

// A hook that outlives its time is killed with all that it has started, whatever that ignores.
func TestAHookThatTakesTooLongIsKilledWithItsTree(t *testing.T) {
	n := harness.Start(t)
	dir := t.TempDir()
	const stubborn = `trap "" TERM INT HUP; for i in 1 2 3; do (trap "" TERM; setsid sh -c 'trap "" TERM; while :; do echo >/witness/tick; sleep 0.05; done' &) & done; echo begun; while :; do sleep 0.1; done`
	p := n.RunPod(t, hooks(t, prestartKey, shell("slow", stubborn, "timeout", "5s")))
	c := p.Create(t, "app", witness(dir))
	begin := time.Now()
	wantCode(t, tryStart(t, c), codes.Aborted, `prestart hook "slow"`, "5s", "begun")
	if took := time.Since(begin); took > harness.Patience(harness.LongEnough) {
		t.Errorf("the start took %s", took)
	}
	if r := hookResults(t, c); len(r) != 1 || r[0].Outcome != hookrun.TimedOut || r[0].Duration < 5*time.Second {
		t.Errorf("results are %+v", r)
	}
	if err := os.Remove(filepath.Join(dir, "tick")); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond) // six times as long as what must be gone would need
	if _, err := os.Stat(filepath.Join(dir, "tick")); err == nil {
		t.Error("a process of the hook goes on")
	}
}

// What a hook leaves behind ends with it: only the application's processes go on.
func TestDaemonsOfAHookEndWithIt(t *testing.T) {
	n := harness.Start(t)
	p := n.RunPod(t, hooks(t, prestartKey, shell("forks", "for i in 1 2 3; do setsid sleep 12345 & done; (setsid sh -c 'sleep 12345 & sleep 12345' &); echo forked")))
	c := p.Run(t, "app")
	if got := c.Exec(t, "sh", "-c", "ps -o args | grep -c '[1]2345' || true"); strings.TrimSpace(got) != "0" {
		t.Errorf("processes of the hook go on: %s", c.Exec(t, "ps"))
	}
	if r := hookResults(t, c); len(r) != 1 || r[0].Outcome != hookrun.Succeeded || r[0].Output != "forked\n" {
		t.Errorf("results are %+v", r)
	}
}

// Of a GiB of output its end is kept, and none of it holds anything up.
func TestAHookThatPrintsAGigabyte(t *testing.T) {
	n := harness.Start(t)
	p := n.RunPod(t, hooks(t, prestartKey, shell("loud", "dd if=/dev/zero bs=1M count=1024 2>/dev/null; echo; echo the end", "timeout", "80s", "log", true)))
	c := p.Run(t, "app")
	r := hookResults(t, c)
	if len(r) != 1 || r[0].Outcome != hookrun.Succeeded || len(r[0].Output) > hookrun.OutputMax || !strings.HasSuffix(r[0].Output, "\nthe end\n") {
		t.Errorf("%d results, %.100q", len(r), r)
	}
	if st, err := os.Stat(c.LogFile()); err != nil || st.Size() > 3<<20 {
		t.Errorf("the log has %v, %v", st, err)
	}
}

// With log: true the output stands in the container's log, each line with the hook's name before it.
func TestOutputOfHooksInTheLog(t *testing.T) {
	n := harness.Start(t)
	p := n.RunPod(t, hooks(t, prestartKey, shell("before", "echo one; echo two >&2", "log", true), shell("silent", "echo unheard")),
		hooks(t, poststopKey, shell("after", "echo three", "log", true)))
	c := p.Run(t, "app", harness.Sh("echo app"))
	text, _ := c.Ended(t)
	if want := "[hook before] one\n[hook before] two\napp\n[hook after] three\n"; text != want {
		t.Errorf("the log is %q", text)
	}
}

// A container that is no longer wanted does not wait for its hooks.
func TestStoppingEndsAStartThatRunsHooks(t *testing.T) {
	n := harness.Start(t)
	for name, stop := range map[string]func(t *testing.T, c *harness.Container){
		"the container is stopped": func(t *testing.T, c *harness.Container) { c.Stop(t, 90) },
		"the container is removed": func(t *testing.T, c *harness.Container) { c.Remove(t) },
		"the pod is stopped": func(t *testing.T, c *harness.Container) {
			if _, err := n.Daemon.Runtime.StopPodSandbox(harness.Context(t), &runtime.StopPodSandboxRequest{PodSandboxId: c.Pod.ID}); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			p := n.RunPod(t, hooks(t, prestartKey, shell("slow", "touch /witness/begun; sleep 1000", "timeout", "80s", "onFailure", "ignore"), shell("next", "touch /witness/next", "timeout", "5s")),
				hooks(t, poststopKey, shell("clean", "touch /witness/cleaned")))
			c := p.Create(t, "app", witness(dir), harness.Sh("touch /witness/ran"))
			failed := make(chan error, 1)
			go func() { failed <- tryStart(t, c) }()
			harness.Eventually(t, "the hook runs", func() bool { _, err := os.Stat(filepath.Join(dir, "begun")); return err == nil })
			begin := time.Now()
			stop(t, c)
			if took := time.Since(begin); took > harness.Patience(harness.LongEnough) {
				t.Errorf("it took %s", took)
			}
			wantCode(t, <-failed, codes.Aborted, "stopped before its program ran")
			if s, err := n.Daemon.Runtime.ContainerStatus(harness.Context(t), &runtime.ContainerStatusRequest{ContainerId: c.ID}); err == nil {
				if s := s.Status; s.State != runtime.ContainerState_CONTAINER_EXITED || s.ExitCode != 128 || s.Reason != "StartError" {
					t.Errorf("the container is %v", s)
				}
			} else if !strings.Contains(name, "removed") {
				t.Error(err)
			}
			for _, never := range []string{"next", "ran", "cleaned"} {
				if _, err := os.Stat(filepath.Join(dir, never)); err == nil {
					t.Errorf("%s is there", never)
				}
			}
		})
	}
}

// An upgrade is told to prestart hooks, with both images.
func TestPrestartHooksKnowOfAnUpgrade(t *testing.T) {
	n := harness.Start(t)
	n.Pull(t, harness.Busybox2)
	p := n.RunPod(t, hooks(t, prestartKey, shell("tell", `echo "$POUCH_ATTEMPT ${POUCH_UPGRADE-no} ${POUCH_OLD_IMAGE-none} ${POUCH_NEW_IMAGE-none}"`)),
		hooks(t, poststopKey, shell("tell", `echo "$POUCH_ATTEMPT ${POUCH_UPGRADE-no}"`)))
	for i, step := range []struct{ image, want, after string }{
		{harness.Busybox, "0 no none none\n", "0 no\n"},
		{harness.Busybox, "1 no none none\n", "1 no\n"},
		{harness.Busybox2, "2 1 " + harness.Busybox + " " + harness.Busybox2 + "\n", "2 no\n"},
	} {
		c := p.Run(t, "app", image(step.image, uint32(i)))
		c.Stop(t, 0)
		if r := hookResults(t, c); len(r) != 2 || r[0].Output != step.want || r[1].Output != step.after {
			t.Errorf("attempt %d: %+v, want %q", i, r, step.want)
		}
	}
}
