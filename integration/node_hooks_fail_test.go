package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
	"github.com/cri-pouch/cri-pouch/internal/hookrun"
)

// script declares a hook that is a shell script of its own. Inside the container it is given to /bin/sh.
func (h *hostHooks) script(t *testing.T, name, stage string, seconds int, text string) {
	t.Helper()
	if stage == "startContainer" {
		h.declare(t, name, timed(declaration(always, "/bin/sh", []string{"-c", text}, stage), seconds))
		return
	}
	path := filepath.Join(filepath.Dir(h.dir), strings.TrimSuffix(name, ".json")+".sh")
	h.write(t, path, 0o755, "#!/bin/sh\n"+text+"\n")
	h.declare(t, name, timed(declaration(always, path, nil, stage), seconds))
}

// timed gives a declaration a timeout.
func timed(text string, seconds int) string {
	return strings.Replace(text, `"hook":{`, fmt.Sprintf(`"hook":{"timeout":%d,`, seconds), 1)
}

// withdraw removes a file and waits until the daemon knows it.
func (h *hostHooks) withdraw(t *testing.T, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(h.dir, name)); err != nil {
		t.Fatal(err)
	}
	h.await(t, filepath.Join(h.dir, name), isNone)
}

func TestANodeHookThatFailsEndsTheStart(t *testing.T) {
	h := withHooks(t)
	p := h.RunPod(t)
	h.declare(t, "90-after.json", declaration(always, h.program, []string{"poststop"}, "poststop"))
	failures := map[string]struct {
		seconds int
		text    string
		parts   []string
	}{
		"exit code": {10, "cat >/dev/null; echo first; echo no such route >&2; exit 7", []string{"failed with exit code 7", "first | no such route"}},
		"signal":    {10, "kill -SEGV $$", []string{"failed with exit code 139"}},
		"hangs":     {3, `trap "" TERM INT HUP; echo waiting; sleep 43219871 & wait; sleep 43219871`, []string{"timed out after 3", "waiting"}},
		"leaves what holds its output, and fails": {10, `sleep 43219871 & exit 9`, []string{"failed with exit code 9"}},
		"prints much": {25, `head -c 50000000 /dev/zero; echo; echo the end; exit 1`, []string{"failed with exit code 1", "the end"}},
	}
	attempt := uint32(0)
	for _, stage := range []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart"} {
		for what, f := range failures {
			t.Run(stage+" "+what, func(t *testing.T) {
				h.script(t, "50-bad.json", stage, f.seconds, f.text)
				defer h.withdraw(t, "50-bad.json")
				h.notes(t)
				attempt++
				c := p.Create(t, "app", func(c *runtime.ContainerConfig) { c.Metadata.Attempt = attempt })
				begun := time.Now()
				_, err := h.Daemon.Runtime.StartContainer(harness.Context(t), &runtime.StartContainerRequest{ContainerId: c.ID})
				if took := time.Since(begun); what != "prints much" && took > harness.Patience(harness.LongEnough) {
					t.Errorf("the answer took %s", took)
				}
				wantError(t, err, append(f.parts, stage, "50-bad.json")...)
				if err != nil && len(err.Error()) > 2000 {
					t.Errorf("the error has %d bytes", len(err.Error()))
				}
				s := c.Status(t)
				if s.State != runtime.ContainerState_CONTAINER_EXITED || s.ExitCode != 128 || s.Reason != "StartError" || !strings.Contains(s.Message, "50-bad.json") {
					t.Errorf("%s, code %d, %s: %s", s.State, s.ExitCode, s.Reason, s.Message)
				}
				c.Remove(t)
				if got := said(h.notes(t)); !slices.Equal(got, []string{"poststop"}) {
					t.Errorf("after the end ran %q", got)
				}
				harness.Eventually(t, "nothing of the hook is left", func() bool { return !running("43219871") })
			})
		}
	}
	t.Run("without any the next one starts", func(t *testing.T) {
		p.Run(t, "app", func(c *runtime.ContainerConfig) { c.Metadata.Attempt = attempt + 1 }).Stop(t, 0)
	})
}

// A poststart hook that fails ends a program that has begun: the pod's poststop hooks clean up after it, once, before the start's
// failure is told.
func TestThePodsPoststopHooksRunAfterAFailedPoststartHook(t *testing.T) {
	h := withHooks(t)
	dir := openDir(t)
	h.script(t, "50-bad.json", "poststart", 20, "exec 2>&1; while [ ! -e "+filepath.Join(dir, "ran")+" ]; do sleep 0.05; done; exit 5")
	p := h.RunPod(t, hooks(t, poststopKey, shell("clean", `echo "$POUCH_EXIT_CODE $POUCH_REASON" >>/witness/cleaned`)))
	c := p.Create(t, "app", witness(dir), harness.Sh("touch /witness/ran; exec sleep 1000"))
	wantCode(t, tryStart(t, c), codes.Aborted, "poststart", "50-bad.json", "exit code 5")
	if b, _ := os.ReadFile(filepath.Join(dir, "cleaned")); string(b) != "137 Killed\n" {
		t.Errorf("the hook wrote %q", b)
	}
	if s := c.Status(t); s.State != runtime.ContainerState_CONTAINER_EXITED || s.ExitCode != 128 || s.Reason != "StartError" || !strings.Contains(s.Message, "50-bad.json") {
		t.Errorf("the container is %v", s)
	}
	if got, want := outcomes(hookResults(t, c)), []string{"poststop clean succeeded"}; !slices.Equal(got, want) {
		t.Errorf("results are %q", got)
	}
}

// running says whether a process has this argument.
func running(argument string) bool {
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, line := range lines {
		if b, err := os.ReadFile(line); err == nil && slices.Contains(strings.Split(string(b), "\x00"), argument) {
			return true
		}
	}
	return false
}

func TestANodeHookAfterTheEndChangesNothing(t *testing.T) {
	h := withHooks(t)
	h.script(t, "50-bad.json", "poststop", 10, "exit 3")
	h.script(t, "60-hangs.json", "poststop", 1, "sleep 43219872 & wait")
	h.declare(t, "70-good.json", declaration(always, h.program, []string{"poststop"}, "poststop"))
	p := h.RunPod(t)
	c := p.Run(t, "app", harness.Sh("exit 5"))
	if _, code := c.Ended(t); code != 5 {
		t.Errorf("code %d", code)
	}
	var results []hookrun.Result
	harness.Eventually(t, "all hooks are reported", func() bool {
		results = infoOf(t, c).NodeHooks
		return len(results) == 3
	})
	if bad, hangs, good := results[0], results[1], results[2]; bad.Outcome != hookrun.Failed || bad.ExitCode != 3 || hangs.Outcome != hookrun.TimedOut || good.Outcome != hookrun.Succeeded || good.Stage != hookrun.Poststop {
		t.Errorf("%+v", results)
	}
	p.Remove(t)
	events, err := exec.Command(h.Binary, "--socket", h.Socket(), "events").Output()
	if err != nil || strings.Count(string(events), "the node's poststop hook") != 2 {
		t.Errorf("%v: %s", err, events)
	}
	if got := said(h.notes(t)); !slices.Equal(got, []string{"poststop"}) {
		t.Errorf("%q", got)
	}
	if running("43219872") {
		t.Error("a hook that was too late goes on")
	}
	log := h.Daemon.LogTail(1 << 20)
	for _, part := range []string{"50-bad.json", "60-hangs.json"} {
		if !strings.Contains(log, part) {
			t.Errorf("the daemon's log has no word of %s", part)
		}
	}
}

// However a container is removed, its hooks for the end run once.
func TestNodeHooksAfterTheEndRunOnce(t *testing.T) {
	h := withHooks(t)
	h.declare(t, "10-stop.json", declaration(always, h.program, []string{"poststop"}, "poststop"))
	once := func(t *testing.T) {
		t.Helper()
		if got := said(h.notes(t)); !slices.Equal(got, []string{"poststop"}) {
			t.Errorf("%q", got)
		}
	}
	t.Run("stopped, removed, pod removed", func(t *testing.T) {
		p := h.RunPod(t)
		c := p.Run(t, "app")
		c.Stop(t, 0)
		c.Stop(t, 0)
		c.Remove(t)
		c.Remove(t)
		p.Remove(t)
		once(t)
	})
	t.Run("pod removed", func(t *testing.T) {
		p := h.RunPod(t)
		p.Run(t, "app")
		p.Remove(t)
		once(t)
	})
	t.Run("daemon killed before the end", func(t *testing.T) {
		p := h.RunPod(t)
		c := p.Run(t, "app", harness.Sh("sleep 0.3; exit 4"))
		h.KillDaemon(t)
		h.StartDaemon(t)
		if _, code := c.Ended(t); code != 4 {
			t.Errorf("code %d", code)
		}
		p.Remove(t)
		once(t)
	})
	t.Run("program that is not there", func(t *testing.T) {
		p := h.RunPod(t)
		c := p.Create(t, "app", harness.Command("/no/such/program"))
		_, err := h.Daemon.Runtime.StartContainer(harness.Context(t), &runtime.StartContainerRequest{ContainerId: c.ID})
		wantCode(t, err, codes.InvalidArgument, "/no/such/program")
		p.Remove(t)
		once(t)
	})
	t.Run("never started", func(t *testing.T) {
		p := h.RunPod(t)
		p.Create(t, "app")
		p.Remove(t)
		if got := said(h.notes(t)); got != nil {
			t.Errorf("%q", got)
		}
	})
}
