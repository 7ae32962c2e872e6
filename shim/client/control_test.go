package client_test

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-pouch/cri-pouch/shim/task"
)

func TestStdin(t *testing.T) {
	l := newLab(t)
	r := l.request("c", l.spec("c", "sh", "-c", "cat; echo end"))
	r.Stdin = true
	l.run(r)
	in, err := os.OpenFile(filepath.Join(l.state, "shim", "containers", "c", "stdin"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.WriteString("typed\n"); err != nil {
		t.Fatal(err)
	}
	in.Close()
	l.eventually("cat has it", func() bool { return l.text("c", "stdout") == "typed\n" })
	if err := l.client.CloseIO(l.ctx, "c", ""); err != nil {
		t.Fatal(err)
	}
	l.finish("c")
	if text := l.text("c", "stdout"); text != "typed\nend\n" {
		t.Errorf("log %q", text)
	}
	l.shell("none", "cat; echo end") // without stdin: an end of file at once
	l.finish("none")
	if text := l.text("none", "stdout"); text != "end\n" {
		t.Errorf("log %q", text)
	}
}

func TestPauseAndResume(t *testing.T) {
	l := newLab(t)
	l.shell("c", "while :; do echo .; sleep 0.01; done")
	l.eventually("it writes", func() bool { return len(l.log("c")) > 2 })
	if err := l.client.Pause(l.ctx, "c"); err != nil {
		t.Fatal(err)
	}
	if info, err := l.client.State(l.ctx, "c"); err != nil || info.Status != task.Paused {
		t.Errorf("%+v, %v", info, err)
	}
	if _, err := l.client.Exec(l.ctx, task.ExecRequest{ID: "c", ExecID: "x", Process: l.process("true")}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("exec while paused: %v", err)
	}
	if err := l.client.Resume(l.ctx, "c"); err != nil {
		t.Fatal(err)
	}
	n := len(l.log("c"))
	l.eventually("it goes on", func() bool { return len(l.log("c")) > n+2 })
	if err := l.client.Pause(l.ctx, "c"); err != nil {
		t.Fatal(err)
	}
	l.kill("c") // also while it is frozen
	if exit := l.finish("c"); exit.Code != 137 {
		t.Errorf("code %d", exit.Code)
	}
}

func TestUpdateStatsPids(t *testing.T) {
	l := newLab(t)
	spec := l.spec("c", "sh", "-c", "sleep 1000 & i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo done; wait")
	limit := int64(64 << 20)
	spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit}
	pid := l.run(l.request("c", spec))
	l.eventually("it has worked", func() bool { return l.text("c", "stdout") == "done\n" })
	s, err := l.client.Stats(l.ctx, "c")
	if err != nil {
		t.Fatal(err)
	}
	if s.CPUUsage == 0 || s.MemoryUsage == 0 || s.MemoryWorkingSet > s.MemoryUsage || s.MemoryLimit != uint64(limit) || s.Pids != 2 || s.PageFaults == 0 || s.Time.IsZero() {
		t.Errorf("stats %+v", s)
	}
	if err := l.client.Update(l.ctx, "c", []byte(`{"memory":{"limit":134217728},"pids":{"limit":77},"cpu":{"shares":512,"quota":50000,"period":100000}}`)); err != nil {
		t.Fatal(err)
	}
	if s, err = l.client.Stats(l.ctx, "c"); err != nil || s.MemoryLimit != 128<<20 || s.PidsLimit != 77 {
		t.Errorf("after Update: %+v, %v", s, err)
	}
	if out, exit := l.exec("c", "echo", "still"); out != "still\n" || exit.Code != 0 {
		t.Errorf("exec after Update: %q, %+v", out, exit)
	}
	if err := l.client.Update(l.ctx, "c", []byte(`{`)); !errdefs.IsInvalidArgument(err) {
		t.Errorf("Update with nonsense: %v", err)
	}
	pids, err := l.client.Pids(l.ctx, "c")
	if err != nil || len(pids) != 2 || !slices.Contains(pids, uint32(pid)) {
		t.Errorf("pids %v, %v", pids, err)
	}
	l.kill("c")
	l.finish("c")
}

func TestOOM(t *testing.T) {
	l := newLab(t)
	limit := int64(32 << 20)
	for id, script := range map[string]string{
		"init":  "exec dd if=/dev/zero of=/dev/null bs=200M count=1",
		"child": "dd if=/dev/zero of=/dev/null bs=200M count=1; echo code $?; read x; exit 5",
	} {
		events, err := l.client.Events(l.ctx)
		if err != nil {
			t.Fatal(err)
		}
		spec := l.spec(id, "sh", "-c", script)
		spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit, Swap: &limit}
		r := l.request(id, spec)
		r.Stdin = true
		l.run(r)
		if id == "child" {
			if e := <-events; e.Type != task.EventOOM || e.ID != id {
				t.Errorf("event %+v", e)
			}
			if err := l.client.CloseIO(l.ctx, id, ""); err != nil {
				t.Fatal(err)
			}
		}
		exit := l.wait(id)
		if want := map[string]uint32{"init": 137, "child": 5}[id]; exit.Code != want || !exit.OOMKilled {
			t.Errorf("%s: %+v", id, exit)
		}
		l.finish(id)
	}
}

func TestSharedPIDNamespace(t *testing.T) {
	l := newLab(t)
	holder := l.shell("holder", "sleep 1000")
	spec := l.spec("c", "sh", "-c", "sleep 1000 & echo $$; exit 2")
	for i, n := range spec.Linux.Namespaces {
		if isPID(n) {
			spec.Linux.Namespaces[i].Path = "/proc/" + strconv.Itoa(holder) + "/ns/pid"
		}
	}
	l.run(l.request("c", spec))
	// What the init leaves behind ends with it: nobody else would end it.
	if exit := l.finish("c"); exit.Code != 2 {
		t.Errorf("code %d", exit.Code)
	}
	if text := strings.TrimSpace(l.text("c", "stdout")); text == "1" || text == "" {
		t.Errorf("its pid was %q", text)
	}
	if pids, err := l.client.Pids(l.ctx, "holder"); err != nil || len(pids) != 1 {
		t.Errorf("holder: %v, %v", pids, err)
	}
	l.kill("holder")
	l.finish("holder")
}
