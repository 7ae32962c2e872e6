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

// stubborn leaves processes everywhere and ignores what can be ignored.
const stubborn = `trap '' TERM INT HUP
for i in 1 2 3; do (trap '' TERM HUP; setsid sh -c 'trap "" TERM HUP; (sleep 1000 & exec sleep 1000) & exec sleep 1000' &) & done
echo forked; while :; do sleep 1000; done`

func TestATimeoutKillsTheWholeTree(t *testing.T) {
	l := newLab(t)
	if err := os.Symlink("busybox", filepath.Join(l.rootfs, "bin/setsid")); err != nil {
		t.Fatal(err)
	}
	hook := l.script("slow", stubborn)
	hook.Timeout = 700 * time.Millisecond
	r := l.hooked("c", "true", []hookrun.Hook{hook}, nil)
	if _, err := l.client.Create(l.ctx, r); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	_, err := l.client.Start(l.ctx, "c")
	if !errdefs.IsAborted(err) || !strings.Contains(err.Error(), `prestart hook "slow" did not end within 700ms: forked`) {
		t.Errorf("the start's error is %v", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
	l.gone("c")
	l.noHookLeft("c")

	// What is ignored leaves nothing behind either: the program is alone, without a zombie.
	ignored := hook
	ignored.Ignore = true
	r = l.hooked("d", `echo /proc/[0-9]*`, []hookrun.Hook{ignored}, []hookrun.Hook{hook})
	l.run(r)
	l.finish("d")
	l.noHookLeft("d")
	if got := outcomes(l.results(r)); got != "prestart slow timeout 137, poststop slow timeout 137" {
		t.Errorf("results %s", got)
	}
	if text := l.text("d", "stdout"); text != "/proc/1\n" {
		t.Errorf("the program sees %q", text)
	}
}

func TestDaemonsOfAHookEndWithIt(t *testing.T) {
	l := newLab(t)
	if err := os.Symlink("busybox", filepath.Join(l.rootfs, "bin/setsid")); err != nil {
		t.Fatal(err)
	}
	daemons := strings.Replace(stubborn, "while :; do sleep 1000; done", "exit 0", 1)
	r := l.hooked("c", `echo /proc/[0-9]*`, []hookrun.Hook{l.script("daemons", daemons)}, []hookrun.Hook{l.script("daemons", daemons)})
	began := time.Now()
	l.run(r)
	l.finish("c")
	l.noHookLeft("c")
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
	if got := outcomes(l.results(r)); got != "prestart daemons succeeded 0, poststop daemons succeeded 0" {
		t.Errorf("results %s", got)
	}
	if text := l.text("c", "stdout"); text != "/proc/1\n" {
		t.Errorf("the program sees %q", text)
	}
}

func TestOutputOfHooks(t *testing.T) {
	l := newLab(t)
	big := l.script("big", "dd if=/dev/zero bs=1M count=1024 2>/dev/null; echo; echo the end")
	big.Timeout = time.Minute
	logged := l.script("logged", "echo out; echo err >&2; printf partial")
	logged.Log = true
	much := l.script("much", "yes 0123456789 | head -c 3000000; echo bye")
	much.Log = true
	bytes := l.script("bytes", `i=0; while [ $i -lt 900 ]; do printf '\377\376\303\050ab'; i=$((i+1)); done`)
	r := l.hooked("c", "echo app", []hookrun.Hook{big, logged, much, bytes}, []hookrun.Hook{logged})
	l.run(r)
	l.finish("c")
	results := l.results(r)
	if got := outcomes(results); got != "prestart big succeeded 0, prestart logged succeeded 0, prestart much succeeded 0, prestart bytes succeeded 0, poststop logged succeeded 0" {
		t.Fatalf("results %s", got)
	}
	for _, result := range results {
		if len(result.Output) > hookrun.OutputMax || strings.ToValidUTF8(result.Output, "") != result.Output {
			t.Errorf("%s: %d bytes", result.Name, len(result.Output))
		}
	}
	if out := results[0].Output; len(out) != hookrun.OutputMax || !strings.HasSuffix(out, "\nthe end\n") {
		t.Errorf("the end of much output is %q", out[max(0, len(out)-20):])
	}
	var lines []string
	for _, rec := range l.log("c") {
		if !strings.HasPrefix(rec.content, "[hook much] 0123456789") {
			lines = append(lines, rec.content)
		}
	}
	want := []string{"[hook logged] out", "[hook logged] err", "[hook logged] partial", "(cut)", "[hook much] (what it writes beyond 1048576 bytes is left out)",
		"app", "[hook logged] out", "[hook logged] err", "[hook logged] partial"}
	if len(lines) == len(want) && strings.HasPrefix(lines[3], "[hook much] ") {
		lines[3] = "(cut)"
	}
	if !slices.Equal(lines, want) {
		t.Errorf("the log has %q", lines)
	}
}

func TestHooksHaveTheContainersLimits(t *testing.T) {
	l := newLab(t)
	spec := l.spec("c", "sh", "-c", "exit 3")
	limit := int64(32 << 20)
	spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit, Swap: &limit}
	eater := l.script("eater", "dd if=/dev/zero of=/dev/null bs=256M count=1; tail /dev/zero; exit 5")
	eater.Ignore = true
	r := l.withHooks("c", spec, []hookrun.Hook{eater}, []hookrun.Hook{eater, l.script("reason", "printf $POUCH_REASON")})
	l.run(r)
	exit := l.finish("c")
	l.noHookLeft("c")
	if exit.Code != 3 || exit.OOMKilled {
		t.Errorf("the OOM kill of a hook is none of the container's: %+v", exit)
	}
	results := l.results(r)
	if len(results) != 3 || results[2].Output != "Error" {
		t.Fatalf("%+v", results)
	}
	for _, result := range results[:2] {
		if result.Outcome != hookrun.Failed || !strings.Contains(result.Message, "OOM killer") {
			t.Errorf("%+v", result)
		}
	}
}

func TestPoststopKnowsHowItEnded(t *testing.T) {
	l := newLab(t)
	limit := int64(32 << 20)
	for id, tc := range map[string]struct {
		script string
		end    func(id string)
		want   string
	}{
		"done":   {"true", nil, "0//Completed"},
		"failed": {"exit 200", nil, "200//Error"},
		"signal": {"kill -SEGV $$", nil, "139/11/Error"},
		"code":   {"exit 137", nil, "137//Error"},
		"killed": {"echo up; sleep 1000", l.kill, "137/9/Killed"},
		"oom":    {"exec tail /dev/zero", nil, "137/9/OOMKilled"},
	} {
		for _, private := range []bool{true, false} {
			name := fmt.Sprintf("%s-%t", id, private)
			script := tc.script
			if id == "signal" || id == "killed" { // pid 1 of a namespace takes no signal from itself
				script = "sh -c '" + tc.script + "'; exit $?"
			}
			spec := l.spec(name, "sh", "-c", tc.script)
			if !private {
				spec.Linux.Namespaces = slices.DeleteFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace })
			} else if id == "signal" {
				spec = l.spec(name, "sh", "-c", script)
				tc.want = "139//Error"
			}
			spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit, Swap: &limit}
			r := l.withHooks(name, spec, nil, []hookrun.Hook{l.script("how", "printf $POUCH_EXIT_CODE/$POUCH_SIGNAL/$POUCH_REASON")})
			l.run(r)
			if tc.end != nil {
				l.eventually("it is up", func() bool { return l.text(name, "stdout") == "up\n" })
				tc.end(name)
			}
			l.finish(name)
			l.noHookLeft(name)
			if results := l.results(r); len(results) != 1 || results[0].Output != tc.want {
				t.Errorf("%s: %+v", name, results)
			}
			if id == "signal" {
				tc.want = "139/11/Error"
			}
		}
	}
}

func TestAKillDuringThePrestartEndsIt(t *testing.T) {
	l := newLab(t)
	r := l.hooked("c", "true", []hookrun.Hook{l.script("slow", "echo up >/v/up; sleep 1000")}, nil)
	if _, err := l.client.Create(l.ctx, r); err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 1)
	go func() {
		_, err := l.client.Start(l.ctx, "c")
		failed <- err
	}()
	l.eventually("the hook runs", func() bool { _, err := os.Stat(filepath.Join(l.rootfs, "v/up")); return err == nil })
	if info, err := l.client.State(l.ctx, "c"); err != nil || info.Status != task.Created || !info.Starting {
		t.Errorf("state %+v, %v", info, err)
	}
	if _, err := l.client.Stats(l.ctx, "c"); err != nil {
		t.Error(err)
	}
	if _, err := l.client.Start(l.ctx, "c"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a second start: %v", err)
	}
	began := time.Now()
	l.kill("c")
	if err := <-failed; !errdefs.IsAborted(err) || !strings.Contains(err.Error(), `prestart hook "slow" was ended`) {
		t.Errorf("the start's error is %v", err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
	l.gone("c")
	l.noHookLeft("c")
	if got := outcomes(l.results(r)); got != "prestart slow failed 137" {
		t.Errorf("results %s", got)
	}
}
