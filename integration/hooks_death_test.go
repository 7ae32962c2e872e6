package integration

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
	"github.com/cri-pouch/cri-pouch/integration/harness"
	"github.com/cri-pouch/cri-pouch/internal/hookrun"
)

// HookSteps are passed by a container with hooks only.
var HookSteps = []string{"container.hooks-planned", "container.hook-told"}

// hookStory is what the journal tells of a container, as "started" and "hook prestart a succeeded".
func hookStory(t testing.TB, n *harness.Node, c *harness.Container) (words []string) {
	t.Helper()
	all, err := journal(t, n, &pouchv1.EventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		if e.ContainerId != c.ID {
			continue
		}
		word := e.Kind
		if e.Kind == "hook" {
			part := strings.SplitN(e.Message, `"`, 3)
			word += " " + part[0] + part[1] + " " + e.Reason
		}
		words = append(words, word)
	}
	return words
}

// Results are in the journal and the metrics, each once and in its place, also when the daemon dies in between.
func TestHooksAreToldOnce(t *testing.T) {
	metrics, address := metricsOption(t)
	n := harness.Start(t, metrics)
	p := n.RunPod(t, hooks(t, prestartKey, shell("a", "true"), shell("b", "exit 1", "onFailure", "ignore")), hooks(t, poststopKey, shell("a", "exit 2"), shell("c", "true")))
	c := p.Run(t, "app", harness.Sh("while :; do sleep 0.1; done"))
	begun := []string{"created", "hook prestart hook a succeeded", "hook prestart hook b failed", "started"}
	if got := hookStory(t, n, c); !slices.Equal(got, begun) {
		t.Errorf("the journal says %q", got)
	}
	for name, want := range map[string]string{
		`cri_pouch_hook_failures_total{stage="prestart"}`:         "1",
		`cri_pouch_hook_failures_total{stage="poststop"}`:         "0",
		`cri_pouch_hook_duration_seconds_count{stage="prestart"}`: "2",
		`cri_pouch_hook_duration_seconds_count{stage="poststop"}`: "0",
	} {
		if got := metric(t, address, name); got != want {
			t.Errorf("%s is %q, want %s", name, got, want)
		}
	}
	n.KillDaemon(t)
	n.StartDaemon(t)
	if got := hookStory(t, n, c); !slices.Equal(got, begun) {
		t.Errorf("after a restart the journal says %q", got)
	}
	c.Stop(t, 0)
	whole := append(begun, "hook poststop hook a failed", "hook poststop hook c succeeded", "ended")
	if got := hookStory(t, n, c); !slices.Equal(got, whole) {
		t.Errorf("at the end the journal says %q", got)
	}
	if got := metric(t, address, `cri_pouch_hook_failures_total{stage="prestart"}`) + metric(t, address, `cri_pouch_hook_failures_total{stage="poststop"}`); got != "01" {
		t.Errorf("the metrics are %s", got)
	}
	before := hookResults(t, c)
	n.KillDaemon(t)
	n.StartDaemon(t)
	if got := hookStory(t, n, c); !slices.Equal(got, whole) {
		t.Errorf("another daemon says %q", got)
	}
	if after := hookResults(t, c); len(after) != 4 || !slices.Equal(outcomes(after), outcomes(before)) || after[2].ExitCode != 2 {
		t.Errorf("another daemon tells %+v, before %+v", after, before)
	}
}

// A daemon killed at any step of telling leaves the rest to the next one.
func TestHooksAreToldOnceByWhoeverIsLeft(t *testing.T) {
	n := harness.Start(t, harness.Failpoints(t))
	for _, step := range []string{HookSteps[0], HookSteps[1], "container.started", "container.end-recorded"} {
		t.Run(step, func(t *testing.T) {
			p := n.RunPod(t, hooks(t, prestartKey, shell("a", "true"), shell("b", "true")), hooks(t, poststopKey, shell("a", "exit 2"), shell("c", "true")))
			cfg := p.ContainerConfig("app", harness.Sh("while :; do sleep 0.1; done"))
			n.Pull(t, harness.Busybox)
			c := &harness.Container{Config: cfg, Pod: p}
			live := func(ctx context.Context) (err error) {
				if c.ID, err = p.TryCreate(ctx, cfg); err == nil {
					_, err = n.Daemon.Runtime.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: c.ID})
				}
				if err == nil {
					_, err = n.Daemon.Runtime.StopContainer(ctx, &runtime.StopContainerRequest{ContainerId: c.ID})
				}
				return err
			}
			killedAt(t, n, step, live)
			// What was cut off is done again, as a client does.
			if s, err := n.Daemon.Runtime.ContainerStatus(harness.Context(t), &runtime.ContainerStatusRequest{ContainerId: c.ID}); err != nil || s.Status.State == runtime.ContainerState_CONTAINER_CREATED {
				if err := live(harness.Context(t)); err != nil {
					t.Fatal(err)
				}
			}
			c.Stop(t, 0)
			want := []string{"created", "hook prestart hook a succeeded", "hook prestart hook b succeeded", "started", "hook poststop hook a failed", "hook poststop hook c succeeded", "ended"}
			if got := hookStory(t, n, c); !slices.Equal(got, want) {
				t.Errorf("the journal says %q", got)
			}
		})
	}
}

// While no daemon runs the shim runs hooks all the same, once, and the next daemon tells of them.
func TestPoststopHooksRunWithoutADaemon(t *testing.T) {
	n := harness.Start(t)
	dir := t.TempDir()
	p := n.RunPod(t, hooks(t, poststopKey, shell("clean", "echo $POUCH_EXIT_CODE >>/witness/ended; while [ ! -e /witness/go ]; do sleep 0.05; done; echo done >>/witness/ended")))
	c := p.Run(t, "app", witness(dir), harness.Sh("while [ ! -e /witness/end ]; do sleep 0.05; done; exit 6"))
	told, touch := filepath.Join(dir, "ended"), func(name string) {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	n.KillDaemon(t)
	touch("end")
	harness.Eventually(t, "the hook runs", func() bool { _, err := os.Stat(told); return err == nil })
	n.StartDaemon(t) // between exit and the end of the hook
	if s := c.Status(t); s.State != runtime.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the end is told before the hook's: %v", s)
	}
	n.KillDaemon(t)
	touch("go")
	harness.Eventually(t, "the hook ends", func() bool { b, _ := os.ReadFile(told); return strings.HasSuffix(string(b), "done\n") })
	n.StartDaemon(t)
	if _, code := c.Ended(t); code != 6 {
		t.Errorf("code %d", code)
	}
	if b, _ := os.ReadFile(told); string(b) != "6\ndone\n" {
		t.Errorf("the hook wrote %q", b)
	}
	if got, want := outcomes(hookResults(t, c)), []string{"poststop clean succeeded"}; !slices.Equal(got, want) {
		t.Errorf("results are %q", got)
	}
}

// A daemon that dies while a prestart hook runs: the next one ends that start, for its client has been told that it failed; the
// container is as good as new.
func TestADaemonDiesDuringAPrestartHook(t *testing.T) {
	n := harness.Start(t)
	dir := t.TempDir()
	p := n.RunPod(t, hooks(t, prestartKey, shell("slow", "echo >>/witness/runs; while [ ! -e /witness/go ]; do sleep 0.05; done", "timeout", "60s")),
		hooks(t, poststopKey, shell("clean", "touch /witness/cleaned")))
	c := p.Create(t, "app", witness(dir), harness.Sh("echo >>/witness/ran; exec sleep 1000"))
	failed := make(chan error, 1)
	go func() { failed <- tryStart(t, c) }()
	harness.Eventually(t, "the hook runs", func() bool { _, err := os.Stat(filepath.Join(dir, "runs")); return err == nil })
	n.KillDaemon(t)
	if err := <-failed; err == nil {
		t.Error("a start whose daemon died has succeeded")
	}
	n.StartDaemon(t)
	if s := c.Status(t); s.State != runtime.ContainerState_CONTAINER_CREATED {
		t.Errorf("the container is %v", s)
	}
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c.Start(t)
	harness.Eventually(t, "the program runs", func() bool { _, err := os.Stat(filepath.Join(dir, "ran")); return err == nil })
	for name, want := range map[string]string{"runs": "\n\n", "ran": "\n"} {
		if b, _ := os.ReadFile(filepath.Join(dir, name)); string(b) != want {
			t.Errorf("%s happened %d times", name, len(b))
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "cleaned")); err == nil {
		t.Error("a poststop hook ran for a program that never did")
	}
	if got, want := outcomes(hookResults(t, c)), []string{"prestart slow succeeded"}; !slices.Equal(got, want) {
		t.Errorf("results are %q", got)
	}
}

// What died with the shim is reported as skipped, with how the program ended where that is known.
func TestAShimDiesBeforeOrInAPoststopHook(t *testing.T) {
	n := harness.Start(t)
	for name, test := range map[string]struct {
		script string
		reason string
		code   int32
		want   []string
	}{
		"before": {"touch /witness/now; exec sleep 1000", "Lost", 255, []string{"poststop first skipped", "poststop slow skipped", "poststop last skipped"}},
		"in":     {"exit 8", "Error", 8, []string{"poststop first succeeded", "poststop slow skipped", "poststop last skipped"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			p := n.RunPod(t, hooks(t, poststopKey, shell("first", "true", "timeout", "5s"), shell("slow", "touch /witness/now; sleep 1000"), shell("last", "true", "timeout", "5s")))
			c := p.Run(t, "app", witness(dir), harness.Sh(test.script))
			harness.Eventually(t, "it is time", func() bool { _, err := os.Stat(filepath.Join(dir, "now")); return err == nil })
			n.ShimKiller(t)()
			c.Ended(t)
			s, r := c.Status(t), hookResults(t, c)
			if s.Reason != test.reason || s.ExitCode != test.code || !strings.Contains(s.Message, `poststop hook "slow" was skipped: the shim died`) {
				t.Errorf("the container is %v", s)
			}
			if got := outcomes(r); !slices.Equal(got, test.want) {
				t.Errorf("results are %+v", r)
			}
		})
	}
}

// A container whose shim dies during a prestart hook has nothing to clean up: no hook for its end was due, and none is told of.
func TestAShimDiesDuringAPrestartHook(t *testing.T) {
	for name, alone := range map[string]bool{"alone": true, "with the daemon": false} {
		t.Run(name, func(t *testing.T) {
			metrics, address := metricsOption(t)
			n := harness.Start(t, metrics)
			dir := t.TempDir()
			p := n.RunPod(t, hooks(t, prestartKey, shell("slow", "touch /witness/now; sleep 1000")), hooks(t, poststopKey, shell("clean", "true")))
			c := p.Create(t, "app", witness(dir))
			failed := make(chan error, 1)
			go func() { failed <- tryStart(t, c) }()
			awaitFile(t, filepath.Join(dir, "now"))
			killShim := n.ShimKiller(t)
			if !alone {
				n.KillDaemon(t)
			}
			killShim()
			if err := <-failed; err == nil {
				t.Error("the start has succeeded")
			}
			if !alone {
				n.StartDaemon(t)
			}
			c.Ended(t)
			if s := c.Status(t); s.Reason != "Lost" || strings.Contains(s.Message, "skipped") {
				t.Errorf("the container is %v", s)
			}
			if r := hookResults(t, c); slices.ContainsFunc(r, func(r hookrun.Result) bool { return r.Stage == hookrun.Poststop }) {
				t.Errorf("results are %+v", r)
			}
			if got := metric(t, address, `cri_pouch_hook_failures_total{stage="poststop"}`); got != "0" {
				t.Errorf("%s failures are counted", got)
			}
		})
	}
}
