package client_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-pouch/cri-pouch/internal/hookrun"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

// launcher builds pouch-init for the lab's containers.
func (l *lab) launcher() string {
	l.t.Helper()
	path := filepath.Join(l.state, "pouch-init")
	if _, err := os.Stat(path); err == nil {
		return path
	}
	if out, err := exec.Command("make", "-s", "-C", "../../init", "OUT="+path).CombinedOutput(); err != nil {
		l.t.Fatalf("build pouch-init: %v\n%s", err, out)
	}
	return path
}

// hook is a shell script as a hook of an ordinary container.
func (l *lab) script(name, script string) hookrun.Hook {
	p := *l.spec("", "/bin/sh", "-c", script).Process
	return hookrun.Hook{Name: name, Process: &p, Timeout: 20 * time.Second}
}

// withHooks puts hooks into the bundle of a request for this spec. The poststop hooks run in a container like it.
func (l *lab) withHooks(id string, spec *specs.Spec, prestart, poststop []hookrun.Hook) task.CreateRequest {
	l.t.Helper()
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: hookrun.Launcher, Type: "bind", Source: l.launcher(), Options: []string{"ro", "bind"}})
	r := l.request(id, spec)
	after, linux := *spec, *spec.Linux
	linux.CgroupsPath += "-after"
	after.Linux = &linux
	plan := hookrun.Plan{Prestart: prestart, Poststop: poststop}
	if len(poststop) > 0 {
		plan.PoststopSpec = &after
	}
	if err := plan.Write(r.Bundle); err != nil {
		l.t.Fatal(err)
	}
	return r
}

// hooked prepares a container that runs a script and has hooks.
func (l *lab) hooked(id, script string, prestart, poststop []hookrun.Hook) task.CreateRequest {
	l.t.Helper()
	return l.withHooks(id, l.spec(id, "sh", "-c", script), prestart, poststop)
}

func (l *lab) results(r task.CreateRequest) []hookrun.Result {
	l.t.Helper()
	results, err := hookrun.ReadResults(r.Bundle)
	if err != nil {
		l.t.Fatal(err)
	}
	return results
}

// outcomes are results in short: stage name outcome code.
func outcomes(results []hookrun.Result) string {
	var out []string
	for _, r := range results {
		out = append(out, fmt.Sprintf("%s %s %s %d", r.Stage, r.Name, r.Outcome, r.ExitCode))
	}
	return strings.Join(out, ", ")
}

// noHookLeft checks that nothing is left of the container of a poststop hook.
func (l *lab) noHookLeft(id string) {
	l.t.Helper()
	l.gone(id + ".poststop")
	if left := l.leftCgroups(id + "-after"); len(left) > 0 {
		l.t.Errorf("cgroups of the poststop hooks of %s are left: %v", id, left)
	}
	if left := l.leftCgroups(id + "/hook"); len(left) > 0 {
		l.t.Errorf("cgroups of the prestart hooks of %s are left: %v", id, left)
	}
}

func TestHooksRunInTheirOrder(t *testing.T) {
	l := newLab(t)
	r := l.hooked("c", "cat /v/order; echo app >>/v/order; echo said; exit 4",
		[]hookrun.Hook{l.script("one", "echo one >>/v/order; echo to out; echo to err >&2"), l.script("two", "echo two >>/v/order")},
		[]hookrun.Hook{l.script("three", "echo three >>/v/order; env | grep POUCH"), l.script("four", "echo four >>/v/order; exit 9"), l.script("five", "echo five >>/v/order")})
	started := time.Now()
	l.run(r)
	if exit := l.finish("c"); exit.Code != 4 {
		t.Errorf("%+v", exit)
	}
	l.noHookLeft("c")
	order, err := os.ReadFile(filepath.Join(l.rootfs, "v/order"))
	if err != nil || string(order) != "one\ntwo\napp\nthree\nfour\nfive\n" {
		t.Errorf("order %q, %v", order, err)
	}
	if text := l.text("c", "stdout"); text != "one\ntwo\nsaid\n" {
		t.Errorf("the log has %q", text)
	}
	results := l.results(r)
	want := "prestart one succeeded 0, prestart two succeeded 0, poststop three succeeded 0, poststop four failed 9, poststop five succeeded 0"
	if got := outcomes(results); got != want {
		t.Fatalf("results %s", got)
	}
	if results[0].Output != "to out\nto err\n" || results[0].StartedAt.Before(started) || results[0].Duration <= 0 || results[0].Duration > time.Minute {
		t.Errorf("%+v", results[0])
	}
	env := strings.Fields(results[2].Output)
	slices.Sort(env)
	if len(env) != 5 || env[0] != "POUCH_EXIT_CODE=4" || env[2] != "POUCH_REASON=Error" || env[3] != "POUCH_SIGNAL=" {
		t.Fatalf("environment %q", env)
	}
	for _, e := range []string{env[1], env[4]} {
		_, value, _ := strings.Cut(e, "=")
		if at, err := time.Parse(time.RFC3339Nano, value); err != nil || at.Before(started) || at.After(time.Now()) {
			t.Errorf("%s: %v", e, err)
		}
	}
}

func TestAFailedPrestartHookEndsTheStart(t *testing.T) {
	l := newLab(t)
	events, err := l.client.Events(l.ctx)
	if err != nil {
		t.Fatal(err)
	}
	ignored := l.script("ignored", "exit 3")
	ignored.Ignore = true
	r := l.hooked("c", "echo ran >/v/ran", []hookrun.Hook{ignored, l.script("bad", "echo first; printf 'no \\033[1mroute\\n' >&2; exit 7"), l.script("never", "true")},
		[]hookrun.Hook{l.script("after", "echo ran >/v/after")})
	if _, err := l.client.Create(l.ctx, r); err != nil {
		t.Fatal(err)
	}
	_, err = l.client.Start(l.ctx, "c")
	if !errdefs.IsAborted(err) || !strings.Contains(err.Error(), `prestart hook "bad" failed with exit code 7: first | no  [1mroute`) {
		t.Fatalf("the start's error is %v", err)
	}
	l.gone("c")
	l.noHookLeft("c")
	if got := outcomes(l.results(r)); got != "prestart ignored failed 3, prestart bad failed 7, prestart never skipped 0" {
		t.Errorf("results %s", got)
	}
	for _, name := range []string{"ran", "after"} {
		if _, err := os.Stat(filepath.Join(l.rootfs, "v", name)); err == nil {
			t.Errorf("%s has run", name)
		}
	}
	// The next attempt starts clean, and no event tells of the one before.
	l.run(l.hooked("c", "exit 5", nil, nil))
	if e := <-events; e.Exit == nil || e.Exit.Code != 5 {
		t.Errorf("event %+v", e)
	}
	l.finish("c")
}

func TestAHookThatCannotBeRun(t *testing.T) {
	l := newLab(t)
	for name, tc := range map[string]struct {
		change func(*hookrun.Hook)
		code   int
		says   string
	}{
		"missing":        {func(h *hookrun.Hook) { h.Process.Args = []string{"/no/such"} }, 127, "/no/such: No such file"},
		"not-executable": {func(h *hookrun.Hook) { h.Process.Args = []string{"/bin/not-executable"} }, 126, "Permission denied"},
		"folder":         {func(h *hookrun.Hook) { h.Process.Cwd = "/no/folder" }, 126, "/no/folder"},
	} {
		hook := l.script(name, "true")
		tc.change(&hook)
		hook.Ignore = true
		r := l.hooked(name, "true", []hookrun.Hook{hook}, []hookrun.Hook{hook})
		l.run(r)
		l.finish(name)
		l.noHookLeft(name)
		results := l.results(r)
		if len(results) != 2 {
			t.Fatalf("%s: %+v", name, results)
		}
		for _, result := range results {
			if said := result.Output + result.Message; name == "folder" && result.Outcome == hookrun.Succeeded && result.Stage == hookrun.Poststop {
				continue // a new container gets the folder it asks for
			} else if result.Outcome != hookrun.Failed || result.ExitCode != tc.code || !strings.Contains(said, tc.says) {
				t.Errorf("%s: %+v", name, result)
			}
		}
	}
	r := l.hooked("no-launcher", "true", []hookrun.Hook{l.script("h", "true")}, nil)
	spec := l.spec("no-launcher", "true")
	_ = os.Remove(filepath.Join(l.rootfs, hookrun.Launcher))
	l.request("no-launcher", spec)
	if _, err := l.client.Create(l.ctx, r); err != nil {
		t.Fatal(err)
	}
	if _, err := l.client.Start(l.ctx, "no-launcher"); err == nil || !strings.Contains(err.Error(), hookrun.Launcher) {
		t.Errorf("without the launcher: %v", err)
	}
	l.gone("no-launcher")
}
