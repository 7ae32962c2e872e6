package client_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-pouch/cri-pouch/internal/hookrun"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

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
	l.kill("c")
	if err := <-failed; !errdefs.IsAborted(err) || !strings.Contains(err.Error(), `prestart hook "slow" was ended`) {
		t.Errorf("the start's error is %v", err)
	}
	l.gone("c")
	l.noHookLeft("c")
	if got := outcomes(l.results(r)); got != "prestart slow failed 137" {
		t.Errorf("results %s", got)
	}
}

// waiting is a hook that tells that it runs and then waits for the file go of the lab's folder v.
const waiting = "echo up >/v/up; while [ ! -e /v/go ]; do usleep 5000; done; echo went"

// up waits until the hook of waiting runs.
func (l *lab) up() {
	l.t.Helper()
	l.eventually("the hook runs", func() bool { _, err := os.Stat(filepath.Join(l.rootfs, "v/up")); return err == nil })
}

func (l *lab) letGo() {
	l.t.Helper()
	if err := os.WriteFile(filepath.Join(l.rootfs, "v/go"), nil, 0o644); err != nil {
		l.t.Fatal(err)
	}
}

func TestAContainerWhoseHooksRun(t *testing.T) {
	l := newLab(t)
	events, err := l.client.Events(l.ctx)
	if err != nil {
		t.Fatal(err)
	}
	r := l.hooked("c", "exit 6", nil, []hookrun.Hook{l.script("slow", waiting)})
	pid := l.run(r)
	l.up()
	info, err := l.client.State(l.ctx, "c")
	if err != nil || info.Status != task.Running || !info.Ending || info.Pid != 0 {
		t.Errorf("state %+v, %v", info, err)
	}
	if infos, err := l.client.List(l.ctx); err != nil || len(infos) != 1 || !infos[0].Ending {
		t.Errorf("list %+v, %v", infos, err)
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err == nil {
		t.Error("its init is there")
	}
	if end, err := hookrun.ReadEnd(r.Bundle); err != nil || end.ExitCode != 6 || end.StartedAt.IsZero() || end.FinishedAt.Before(end.StartedAt) {
		t.Errorf("end %+v, %v", end, err)
	}
	// What can be asked of it is answered, and nothing waits for the hook.
	for _, signal := range []uint32{15, 9} {
		for _, all := range []bool{false, true} {
			if err := l.client.Kill(l.ctx, "c", signal, all); err != nil {
				t.Errorf("kill %d, all %t: %v", signal, all, err)
			}
		}
	}
	if _, err := l.client.Stats(l.ctx, "c"); err != nil {
		t.Error(err)
	}
	if pids, err := l.client.Pids(l.ctx, "c"); err != nil || len(pids) != 0 {
		t.Errorf("processes %v, %v", pids, err)
	}
	if err := l.client.ReopenLog(l.ctx, "c"); err != nil {
		t.Error(err)
	}
	if _, err := l.client.Exec(l.ctx, task.ExecRequest{ID: "c", ExecID: "e", Process: []byte(`{"args":["true"],"cwd":"/"}`)}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("exec: %v", err)
	}
	if err := l.client.Pause(l.ctx, "c"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("pause: %v", err)
	}
	if _, err := l.client.Delete(l.ctx, "c"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("delete: %v", err)
	}
	select {
	case e := <-events:
		t.Errorf("event %+v before the hook has ended", e)
	default:
	}
	l.letGo()
	if exit := l.finish("c"); exit.Code != 6 {
		t.Errorf("%+v", exit)
	}
	l.noHookLeft("c")
	if e := <-events; e.Type != task.EventExit || e.Exit.Code != 6 {
		t.Errorf("event %+v", e)
	}
	if results := l.results(r); outcomes(results) != "poststop slow succeeded 0" || results[0].Output != "went\n" {
		t.Errorf("results %+v", results)
	}
}

func TestACreatedContainerWhoseHooksRun(t *testing.T) {
	l := newLab(t)
	r := l.hooked("c", "exit 6", []hookrun.Hook{l.script("slow", waiting)}, nil)
	if _, err := l.client.Create(l.ctx, r); err != nil {
		t.Fatal(err)
	}
	started := make(chan error, 1)
	ctx, giveUp := context.WithCancel(l.ctx)
	go func() {
		_, err := l.client.Start(ctx, "c")
		started <- err
	}()
	l.up()
	if _, err := l.client.Exec(l.ctx, task.ExecRequest{ID: "c", ExecID: "e", Process: []byte(`{"args":["true"],"cwd":"/"}`)}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("exec: %v", err)
	}
	if err := l.client.Update(l.ctx, "c", []byte(`{"cpu":{"shares":512}}`)); err != nil {
		t.Errorf("update: %v", err)
	}
	if pids, err := l.client.Pids(l.ctx, "c"); err != nil || len(pids) < 3 { // the init, the launcher, the shell
		t.Errorf("processes %v, %v", pids, err)
	}
	giveUp() // whoever asked for the start may die meanwhile
	if err := <-started; err == nil {
		t.Error("the caller has given up, and got an answer")
	}
	l.letGo()
	if exit := l.finish("c"); exit.Code != 6 {
		t.Errorf("%+v", exit)
	}
	l.noHookLeft("c")
}

func TestAPlanThatIsGoneAtTheEnd(t *testing.T) {
	l := newLab(t)
	r := l.hooked("c", "while [ ! -e /v/go ]; do usleep 5000; done; exit 6", nil, []hookrun.Hook{l.script("h", "echo >/v/ran")})
	l.run(r)
	if err := os.Remove(filepath.Join(r.Bundle, hookrun.Dir, hookrun.PlanFile)); err != nil {
		t.Fatal(err)
	}
	l.letGo()
	if exit := l.finish("c"); exit.Code != 6 {
		t.Errorf("%+v", exit)
	}
	if results := l.results(r); outcomes(results) != "poststop h skipped 0" || !strings.Contains(results[0].Message, hookrun.PlanFile) {
		t.Errorf("results %+v", results)
	}
}
