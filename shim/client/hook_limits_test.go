package client_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-pouch/cri-pouch/internal/hookrun"
)

// stubborn leaves processes everywhere and ignores what can be ignored.
const stubborn = `trap '' TERM INT HUP
for i in 1 2 3; do (trap '' TERM HUP; setsid sh -c 'trap "" TERM HUP; (sleep 1000 & exec sleep 1000) & exec sleep 1000' &) & done
echo forked; while :; do sleep 1000; done`

func TestATimeoutKillsTheWholeTree(t *testing.T) {
	l := newLab(t)
	hook := l.script("slow", stubborn)
	hook.Timeout = 4 * time.Second
	r := l.hooked("c", "true", []hookrun.Hook{hook}, nil)
	if _, err := l.client.Create(l.ctx, r); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	_, err := l.client.Start(l.ctx, "c")
	if !errdefs.IsAborted(err) || !strings.Contains(err.Error(), `prestart hook "slow" timed out after 4s: forked`) {
		t.Errorf("the start's error is %v", err)
	}
	if took := time.Since(began); took > longEnough {
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
	daemons := strings.Replace(stubborn, "while :; do sleep 1000; done", "exit 0", 1)
	r := l.hooked("c", `echo /proc/[0-9]*`, []hookrun.Hook{l.script("daemons", daemons)}, []hookrun.Hook{l.script("daemons", daemons)})
	began := time.Now()
	l.run(r)
	l.finish("c")
	l.noHookLeft("c")
	if took := time.Since(began); took > longEnough {
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
	want := []string{"[hook logged] out", "[hook logged] err", "[hook logged] partial", "[hook much] (what goes beyond 1048576 bytes of the log is left out)",
		"app", "[hook logged] out", "[hook logged] err", "[hook logged] partial"}
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
