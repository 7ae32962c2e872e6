package rich

import (
	"strings"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
	"github.com/cri-pouch/cri-pouch/internal/hookrun"
)

// until is a script that waits for a file.
func until(name string) string { return "until [ -e /witness/" + name + " ]; do sleep 0.05; done; " }

// A daemon that dies in a prestart hook: the next start begins with it anew, and init and application run once. One that dies
// between the application's end and the hook's: the hook runs all the same, once, and the next daemon tells of it.
func theDaemonDiesAroundHooks(t *testing.T, n *hookNode, m hookMachine, ref string) {
	dir := t.TempDir()
	p := n.RunPod(t, pod(m.mode),
		harness.Hooks(t, hookrun.Prestart, harness.ShellHook("slow", "echo begun >>/witness/story; "+until("begin"), "timeout", "60s")),
		harness.Hooks(t, hookrun.Poststop, harness.ShellHook("clean", "echo ended $POUCH_EXIT_CODE >>/witness/story; "+until("clean")+"echo cleaned >>/witness/story", "timeout", "50s")))
	c := p.Create(t, "app", image(ref, "sh", "-c", "echo ran >>/witness/story; "+until("end")+"exit 6"), witnessed(dir))
	answer := make(chan error, 1)
	start := func() { answer <- tryStart(t, c) }
	go start()
	awaitStory(t, dir, "begun\n")
	n.KillDaemon(t)
	if err := <-answer; err == nil {
		t.Error("a start whose daemon died has succeeded")
	}
	n.StartDaemon(t)
	if s := c.Status(t); s.State != runtime.ContainerState_CONTAINER_CREATED {
		t.Errorf("after the first death the container is %v", s)
	}
	go start()
	awaitStory(t, dir, "begun\nbegun\n")
	put(t, dir, "begin")
	if err := <-answer; err != nil {
		t.Fatal(err)
	}
	awaitStory(t, dir, "ran\n")
	n.KillDaemon(t)
	put(t, dir, "end")
	awaitStory(t, dir, "ended 6\n")
	n.StartDaemon(t)
	if s := c.Status(t); s.State != runtime.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the end is told before the hook's: %v", s)
	}
	n.KillDaemon(t)
	put(t, dir, "clean")
	awaitStory(t, dir, "cleaned\n")
	n.StartDaemon(t)
	if _, code := c.Ended(t); code != 6 {
		t.Errorf("code %d", code)
	}
	if got := storyIn(t, dir); got != "begun\nbegun\nran\nended 6\ncleaned\n" {
		t.Errorf("the story is %q", got)
	}
	wantOutcomes(t, c.Told(t).Hooks, "prestart slow succeeded", "poststop clean succeeded")
}

// What died with the shim is reported as skipped, with how the application ended where that is known.
func theShimDiesBeforeOrInHooks(t *testing.T, n *hookNode, m hookMachine, ref string) {
	for name, test := range map[string]struct {
		app    string
		reason string
		code   int32
		first  string
	}{
		"before": {"echo now >>/witness/story; " + until("never"), "Lost", 255, "skipped"},
		"in":     {"exit 8", "Error", 8, "succeeded"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			p := n.RunPod(t, pod(m.mode), harness.Hooks(t, hookrun.Poststop, harness.ShellHook("first", "true", "timeout", "5s"),
				harness.ShellHook("slow", "echo now >>/witness/story; "+until("never")), harness.ShellHook("last", "true", "timeout", "5s")))
			c := p.Run(t, "app", image(ref, "sh", "-c", test.app), witnessed(dir))
			awaitStory(t, dir, "now\n")
			n.ShimKiller(t)()
			c.Ended(t)
			wantOutcomes(t, c.Told(t).Hooks, "poststop first "+test.first, "poststop slow skipped", "poststop last skipped")
			if s := c.Status(t); s.Reason != test.reason || s.ExitCode != test.code || !strings.Contains(s.Message, `poststop hook "slow" was skipped: the shim died`) {
				t.Errorf("the container is %v", s)
			}
			if got := storyIn(t, dir); got != "now\n" {
				t.Errorf("the story is %q", got)
			}
			harness.Eventually(t, "nothing of it runs", func() bool { left, err := n.Processes(); return err == nil && len(left) == 0 })
		})
	}
}
