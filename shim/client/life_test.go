package client_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/shim/task"
)

func TestLifeOfAContainer(t *testing.T) {
	l := newLab(t)
	events, err := l.client.Events(l.ctx)
	if err != nil {
		t.Fatal(err)
	}
	r := l.request("one", l.spec("one", "sh", "-c", "echo out; echo err >&2; exit 7"))
	pid, err := l.client.Create(l.ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	info, err := l.client.State(l.ctx, "one")
	if err != nil || info.Status != task.Created || info.Pid != pid || !info.StartedAt.IsZero() {
		t.Fatalf("after Create: %+v, %v", info, err)
	}
	started, err := l.client.Start(l.ctx, "one")
	if err != nil || started.IsZero() {
		t.Fatalf("Start: %v, %v", started, err)
	}
	if exit := l.wait("one"); exit.Code != 7 || exit.OOMKilled || exit.ExitedAt.Before(started) {
		t.Errorf("exit: %+v, started %v", exit, started)
	}
	e := <-events
	if e.Type != task.EventExit || e.ID != "one" || e.Exit == nil || e.Exit.Code != 7 {
		t.Errorf("event: %+v", e)
	}
	if out, errs := l.text("one", "stdout"), l.text("one", "stderr"); out != "out\n" || errs != "err\n" {
		t.Errorf("log: stdout %q, stderr %q", out, errs)
	}
	list, err := l.client.List(l.ctx)
	if err != nil || len(list) != 1 || list[0].Status != task.Stopped || list[0].Exit.Code != 7 || !list[0].StartedAt.Equal(started) {
		t.Errorf("List: %+v, %v", list, err)
	}
	if exit := l.finish("one"); exit.Code != 7 {
		t.Errorf("Delete gave code %d", exit.Code)
	}
	if _, err := l.client.State(l.ctx, "one"); !errdefs.IsNotFound(err) {
		t.Errorf("State after Delete: %v", err)
	}
}

func TestExitCodes(t *testing.T) {
	l := newLab(t)
	for name, c := range map[string]struct {
		script string
		signal unix.Signal
		code   uint32
	}{
		"zero":       {"exit 0", 0, 0},
		"highest":    {"exit 255", 0, 255},
		"own-signal": {"sleep 1000 & kill -9 $$", 0, 0}, // the kernel protects a pid 1 from its own SIGKILL
		"killed":     {"sleep 1000", unix.SIGKILL, 137},
		"term":       {"trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done", unix.SIGTERM, 3},
	} {
		t.Run(name, func(t *testing.T) {
			l.shell(name, c.script)
			if c.signal == unix.SIGTERM {
				l.eventually("the trap is set", func() bool { return len(l.log(name)) > 0 })
			}
			if c.signal != 0 {
				if err := l.client.Kill(l.ctx, name, uint32(c.signal), false); err != nil {
					t.Fatal(err)
				}
			}
			if exit := l.finish(name); exit.Code != c.code {
				t.Errorf("code %d, want %d", exit.Code, c.code)
			}
		})
	}
}

func TestASignalRightAfterTheStartMeetsTheProgram(t *testing.T) {
	l := newLab(t)
	if err := os.Link(l.launcher(), filepath.Join(l.rootfs, "bin/pouch-init")); err != nil {
		t.Fatal(err)
	}
	for i := range 30 {
		id := fmt.Sprintf("c%d", i)
		// pid 1 of a namespace takes what it has a handler for: the one ends by SIGTERM, the other by itself.
		args := []string{"pouch-init", "hold"}
		if i%2 == 1 {
			args = []string{"usleep", "50000"}
		}
		l.run(l.request(id, l.spec(id, args...)))
		if err := l.client.Kill(l.ctx, id, uint32(unix.SIGTERM), false); err != nil {
			t.Error(err)
		}
		if exit := l.finish(id); exit.Code != 0 {
			t.Errorf("%s: code %d", id, exit.Code)
		}
	}
}
