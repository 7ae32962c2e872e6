package client_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/cri-pouch/cri-pouch/shim/client"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

var buildFailingShim = sync.OnceValues(func() (string, error) {
	product, err := buildShim()
	if err != nil {
		return "", err
	}
	binary := filepath.Join(filepath.Dir(product), "failpoints")
	cmd := exec.Command("go", "build", "-trimpath", "-tags", "seccomp netgo osusergo failpoints", "-ldflags", `-s -w -linkmode external -extldflags "-static"`,
		"-o", binary, "github.com/cri-pouch/cri-pouch/cmd/containerd-shim-pouch-v2")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the shim with failpoints: %w\n%s", err, out)
	}
	return binary, nil
})

// failing gives the lab a shim that panics at a failpoint each time that arm was called before.
func failing(t *testing.T, failpoint string) (l *lab, arm func()) {
	t.Helper()
	var cmd *exec.Cmd
	ended := make(chan struct{})
	t.Cleanup(func() { // after the lab's own, which ends the shim in its order
		if cmd != nil {
			_ = cmd.Process.Kill()
			<-ended
		}
	})
	l = newLab(t)
	binary, err := buildFailingShim()
	if err != nil {
		t.Fatal(err)
	}
	if err := l.client.Shutdown(l.ctx); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(l.state, "panic")
	begun := exec.Command(binary, "--state", l.state, "--debug")
	begun.Env = append(os.Environ(), "CRI_POUCH_FAILPOINTS="+failpoint+"=panic:"+file)
	if err := begun.Start(); err != nil {
		t.Fatal(err)
	}
	cmd = begun
	go func() { defer close(ended); _ = cmd.Wait() }()
	l.eventually("the shim answers", func() bool {
		_, err := os.Stat(filepath.Join(l.state, "shim", "shim.sock"))
		return err == nil
	})
	if l.client, err = client.Start(l.ctx, l.options); err != nil {
		t.Fatal(err)
	}
	if l.client.Pid() != cmd.Process.Pid {
		t.Fatalf("shim %d serves instead of %d", l.client.Pid(), cmd.Process.Pid)
	}
	return l, func() {
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// panicked checks that the panic has happened, stands in the log with its stack and count, and ended nothing else.
func (l *lab) panicked(shim int, bystander string) {
	l.t.Helper()
	b, err := os.ReadFile(filepath.Join(l.state, "shim", "shim.log"))
	if err != nil {
		l.t.Fatal(err)
	}
	for _, want := range []string{"panic: failpoint", "panics=1", "failpoint.Hit", "goroutine "} {
		if !strings.Contains(string(b), want) {
			l.t.Errorf("the log lacks %q", want)
		}
	}
	if l.client.Pid() != shim {
		l.t.Errorf("shim %d has taken the place of %d", l.client.Pid(), shim)
	}
	if info, err := l.client.State(l.ctx, bystander); err != nil || info.Status != task.Running {
		l.t.Errorf("the bystander: %+v, %v", info, err)
	}
	l.kill(bystander)
	l.finish(bystander)
}

func TestAPanicLeavesNoContainerRunningOverADeadProcess(t *testing.T) {
	l, arm := failing(t, "shim.container-ended")
	shim := l.client.Pid()
	l.shell("bystander", "sleep 1000")
	events, err := l.client.Events(l.ctx)
	if err != nil {
		t.Fatal(err)
	}
	arm()
	l.shell("one", "echo said; exit 7")
	if e := <-events; e.Type != task.EventExit || e.ID != "one" || e.Exit == nil || e.Exit.Code != 7 {
		t.Errorf("event %+v", e)
	}
	if exit := l.finish("one"); exit.Code != 7 {
		t.Errorf("code %d", exit.Code)
	}
	l.panicked(shim, "bystander")
}

func TestAPanicLeavesNoExecRunningOverADeadProcess(t *testing.T) {
	l, arm := failing(t, "shim.exec-ended")
	shim := l.client.Pid()
	l.shell("bystander", "sleep 1000")
	arm()
	if out, exit := l.exec("bystander", "sh", "-c", "echo said; exit 7"); exit.Code != 7 || out != "said\n" {
		t.Errorf("%+v, %q", exit, out)
	}
	l.panicked(shim, "bystander")
}

// What was read when the panic came is lost. The rest is not, and the program does not stop at a full pipe.
func TestAPanicOverOutputDoesNotStopTheProgram(t *testing.T) {
	l, arm := failing(t, "shim.output")
	shim := l.client.Pid()
	l.shell("bystander", "sleep 1000")
	arm()
	l.shell("talker", "echo first; sleep 0.2; i=0; while test $i -lt 20000; do echo line $i; i=$((i+1)); done; exit 3")
	if exit := l.finish("talker"); exit.Code != 3 {
		t.Errorf("code %d", exit.Code)
	}
	if text := l.text("talker", "stdout"); !strings.HasSuffix(text, "line 19999\n") {
		t.Errorf("the log ends with %q", text[max(0, len(text)-50):])
	}
	l.panicked(shim, "bystander")
}
