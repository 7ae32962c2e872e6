package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/shim/task"
)

// fifo makes a FIFO and opens it for reading and writing, so that neither side waits for the other.
func (l *lab) fifo(name string) (string, *os.File) {
	l.t.Helper()
	path := filepath.Join(l.state, name)
	if err := unix.Mkfifo(path, 0o600); err != nil {
		l.t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { f.Close() })
	return path, f
}

func (l *lab) process(args ...string) []byte {
	b, err := json.Marshal(&specs.Process{
		Args: args, Cwd: "/", Env: []string{"PATH=/bin"}, NoNewPrivileges: true,
		Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
	})
	if err != nil {
		l.t.Fatal(err)
	}
	return b
}

// exec runs a command to its end and gives what it wrote.
func (l *lab) exec(id string, args ...string) (string, task.Exit) {
	l.t.Helper()
	execID := "x" + strings.ReplaceAll(time.Now().Format("150405.000000000"), ".", "")
	path, out := l.fifo(execID)
	if _, err := l.client.Exec(l.ctx, task.ExecRequest{ID: id, ExecID: execID, Process: l.process(args...), Stdout: path, Stderr: path}); err != nil {
		l.t.Fatal(err)
	}
	exit, err := l.client.Wait(l.ctx, id, execID)
	if err != nil {
		l.t.Fatal(err)
	}
	if err := l.client.DeleteExec(l.ctx, id, execID); err != nil {
		l.t.Fatal(err)
	}
	return l.standing(out), exit
}

// standing reads what stands in a FIFO.
func (l *lab) standing(f *os.File) string {
	l.t.Helper()
	raw, err := f.SyscallConn()
	if err != nil {
		l.t.Fatal(err)
	}
	var text []byte
	if err := raw.Control(func(fd uintptr) {
		piece := make([]byte, 64<<10)
		for n := 1; n > 0; {
			if n, err = unix.Read(int(fd), piece); n > 0 {
				text = append(text, piece[:n]...)
			}
		}
	}); err != nil {
		l.t.Fatal(err)
	}
	return string(text)
}

func TestExec(t *testing.T) {
	l := newLab(t)
	l.shell("c", "sleep 1000")
	t.Run("output and code", func(t *testing.T) {
		out, exit := l.exec("c", "sh", "-c", "echo hello; echo oops >&2; exit 9")
		if out != "hello\noops\n" || exit.Code != 9 {
			t.Errorf("%q, code %d", out, exit.Code)
		}
	})
	t.Run("is in the container's cgroups", func(t *testing.T) {
		out, _ := l.exec("c", "sh", "-c", "cat /proc/self/cgroup")
		first, _ := l.exec("c", "cat", "/proc/1/cgroup")
		if out != first || !strings.Contains(out, ":memory:/\n") && !strings.Contains(out, "0::/\n") {
			t.Errorf("exec in %q, init in %q", out, first)
		}
	})
	t.Run("stdin ends", func(t *testing.T) {
		in, w := l.fifo("in")
		path, out := l.fifo("in-out")
		_, err := l.client.Exec(l.ctx, task.ExecRequest{ID: "c", ExecID: "in", Process: l.process("cat"), Stdin: in, Stdout: path})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.WriteString("typed"); err != nil {
			t.Fatal(err)
		}
		w.Close()
		if exit, err := l.client.Wait(l.ctx, "c", "in"); err != nil || exit.Code != 0 {
			t.Fatalf("%+v, %v", exit, err)
		}
		b := make([]byte, 100)
		if n, _ := out.Read(b); string(b[:n]) != "typed" {
			t.Errorf("cat gave %q", b[:n])
		}
	})
	t.Run("kill takes the children along", func(t *testing.T) {
		before, err := l.client.Pids(l.ctx, "c")
		if err != nil {
			t.Fatal(err)
		}
		_, err = l.client.Exec(l.ctx, task.ExecRequest{ID: "c", ExecID: "tree", Process: l.process("sh", "-c", "(sleep 900 & sleep 901) & sleep 902 & wait")})
		if err != nil {
			t.Fatal(err)
		}
		count := func() int {
			pids, err := l.client.Pids(l.ctx, "c")
			if err != nil {
				t.Fatal(err)
			}
			return len(pids)
		}
		l.eventually("the exec has its children", func() bool { return count() >= len(before)+4 })
		if err := l.client.DeleteExec(l.ctx, "c", "tree"); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("delete while it runs: %v", err)
		}
		if err := l.client.KillExec(l.ctx, "c", "tree", uint32(unix.SIGKILL), true); err != nil {
			t.Fatal(err)
		}
		if exit, err := l.client.Wait(l.ctx, "c", "tree"); err != nil || exit.Code != 137 {
			t.Errorf("%+v, %v", exit, err)
		}
		l.eventually("its children are gone", func() bool { return count() == len(before) })
	})
	t.Run("kill lets no parent go on without its child", func(t *testing.T) {
		for i := range 30 {
			id := fmt.Sprintf("order%d", i)
			_, err := l.client.Exec(l.ctx, task.ExecRequest{ID: "c", ExecID: id, Process: l.process("sh", "-c", "sh -c 'sleep 903; exit 0'; exit 0")})
			if err != nil {
				t.Fatal(err)
			}
			l.eventually("the exec has its children", func() bool { pids, err := l.client.Pids(l.ctx, "c"); return err == nil && len(pids) >= 4 })
			if err := l.client.KillExec(l.ctx, "c", id, uint32(unix.SIGKILL), true); err != nil {
				t.Fatal(err)
			}
			if exit, err := l.client.Wait(l.ctx, "c", id); err != nil || exit.Code != 137 {
				t.Fatalf("exec %d: %+v, %v", i, exit, err)
			}
			l.eventually("its children are gone", func() bool { pids, err := l.client.Pids(l.ctx, "c"); return err == nil && len(pids) == 1 })
		}
	})
	t.Run("errors name the program and leave nothing", func(t *testing.T) {
		for _, program := range []string{"no-such", "/bin/not-executable"} {
			_, err := l.client.Exec(l.ctx, task.ExecRequest{ID: "c", ExecID: "bad", Process: l.process(program)})
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), program) {
				t.Errorf("%s: %v", program, err)
			}
			if _, err := l.client.Wait(l.ctx, "c", "bad"); !errdefs.IsNotFound(err) {
				t.Errorf("%s is left: %v", program, err)
			}
		}
	})
	l.kill("c")
	l.finish("c")
}

// tardy is a context whose end is noticed after its deadline, as on a busy machine.
type tardy struct {
	context.Context
	deadline time.Time
}

func (c tardy) Deadline() (time.Time, bool) { return c.deadline, true }

// The shim has a timer of its own for a call's deadline: its answer can be there before the caller's timer has fired.
func TestDeadlineThatTheShimNoticesFirst(t *testing.T) {
	l := newLab(t)
	l.shell("c", "sleep 1000")
	if _, err := l.client.Exec(l.ctx, task.ExecRequest{ID: "c", ExecID: "long", Process: l.process("sleep", "1001")}); err != nil {
		t.Fatal(err)
	}
	ends, cancel := context.WithTimeout(l.ctx, 600*time.Millisecond)
	defer cancel()
	ctx := tardy{ends, time.Now().Add(100 * time.Millisecond)}
	_, err := l.client.Wait(ctx, "c", "long")
	if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() == nil {
		t.Errorf("%v while the context says %v", err, ctx.Err())
	}
	l.kill("c")
	l.finish("c")
}

// Between the death of a container's init and the container's end its pid is nobody's, or another process's: nothing enters a
// container by it, and the try leaves nothing open.
func TestExecAfterTheInitHasGone(t *testing.T) {
	l := newLab(t)
	try := func() string {
		pid := l.shell("c", "sleep 1000")
		// Who holds the output makes the container's end wait.
		held, err := os.OpenFile(fmt.Sprintf("/proc/%d/fd/1", pid), os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer held.Close()
		l.kill("c")
		l.eventually("the init is reaped", func() bool { return unix.Kill(pid, 0) == unix.ESRCH })
		_, err = l.client.Exec(l.ctx, task.ExecRequest{ID: "c", ExecID: "late", Process: l.process("true")})
		for what, err := range map[string]error{"exec": err, "update": l.client.Update(l.ctx, "c", []byte(`{"cpu":{"shares":200}}`)), "pause": l.client.Pause(l.ctx, "c")} {
			if !errdefs.IsFailedPrecondition(err) {
				t.Errorf("%s gave %v", what, err)
			}
		}
		l.finish("c")
		return fmt.Sprint(err)
	}
	try() // some descriptors are opened once and kept
	before := l.descriptors()
	l.eventually("a try comes before the container's end is known", func() bool { return strings.Contains(try(), "first process has ended") })
	l.eventually("no more descriptors are open than before", func() bool { return len(l.descriptors()) <= len(before) })
}

func TestExecWithTerminal(t *testing.T) {
	l := newLab(t)
	l.shell("c", "sleep 1000")
	in, w := l.fifo("in")
	path, out := l.fifo("out")
	_, err := l.client.Exec(l.ctx, task.ExecRequest{ID: "c", ExecID: "tty", Terminal: true, Process: l.process("sh", "-c", "tty; read x; stty size; echo got $x"), Stdin: in, Stdout: path})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.client.ResizePty(l.ctx, "c", "tty", 132, 43); err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteString("word\n"); err != nil {
		t.Fatal(err)
	}
	if exit, err := l.client.Wait(l.ctx, "c", "tty"); err != nil || exit.Code != 0 {
		t.Fatalf("%+v, %v", exit, err)
	}
	text := l.standing(out)
	for _, want := range []string{"/dev/pts/", "43 132", "got word"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in %q", want, text)
		}
	}
	l.kill("c")
	l.finish("c")
}

func TestNoDescriptorLeaksIntoAContainer(t *testing.T) {
	l := newLab(t)
	l.shell("noise", "sleep 1000") // so that the shim has FIFOs and pidfds of another one
	l.shell("c", "ls /proc/self/fd | wc -l; ls -l /proc/self/fd; echo end; sleep 1000")
	l.eventually("the list is written", func() bool { return strings.Contains(l.text("c", "stdout"), "end\n") })
	// 0, 1, 2 and the one that lists
	if text := l.text("c", "stdout"); !strings.HasPrefix(text, "4\n") {
		t.Errorf("init has other descriptors:\n%s", text)
	}
	if out, _ := l.exec("c", "sh", "-c", "ls /proc/self/fd | wc -l"); out != "4\n" {
		t.Errorf("an exec'd process has %q descriptors", out)
	}
	for _, id := range []string{"noise", "c"} {
		l.kill(id)
		l.finish(id)
	}
}

// A container has so many execs and no more, whether they run or nobody has deleted them. Others have theirs.
func TestExecsOfAContainerAreBounded(t *testing.T) {
	const most = 256
	l := newLab(t)
	l.shell("c", "sleep 1000")
	l.shell("bystander", "sleep 1000")
	start := func(id int) error {
		command := "true"
		if id%64 == 0 {
			command = "sleep"
		}
		_, err := l.client.Exec(l.ctx, task.ExecRequest{ID: "c", ExecID: fmt.Sprint("x", id), Process: l.process(command, "1000")})
		return err
	}
	for id := range most {
		if err := start(id); err != nil {
			t.Fatalf("exec %d: %v", id, err)
		}
	}
	for range 2 { // one that was refused does not count
		err := start(most)
		if !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "container c: 256 execs") || !strings.Contains(err.Error(), "delete some") {
			t.Errorf("one more: %v", err)
		}
	}
	if out, exit := l.exec("bystander", "echo", "served"); out != "served\n" || exit.Code != 0 {
		t.Errorf("another container's exec gave %q, %+v", out, exit)
	}
	if _, err := l.client.Wait(l.ctx, "c", "x1"); err != nil {
		t.Fatal(err)
	}
	if err := l.client.DeleteExec(l.ctx, "c", "x1"); err != nil {
		t.Fatal(err)
	}
	if err := start(most); err != nil {
		t.Errorf("after one was deleted: %v", err)
	}
	for _, id := range []string{"c", "bystander"} {
		l.kill(id)
		l.finish(id)
	}
}

// A caller that dies after the end of its exec deletes it no more: the shim forgets it by itself.
func TestAnEndedExecIsForgottenWithItsCaller(t *testing.T) {
	l := newLab(t)
	l.shell("c", "sleep 1000")
	path, out := l.pipe("out", os.O_RDONLY)
	if _, err := l.client.Exec(l.ctx, task.ExecRequest{ID: "c", ExecID: "x", Process: l.process("true"), Stdout: path}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if exit, err := l.client.Wait(l.ctx, "c", "x"); err != nil || exit.Code != 0 {
			t.Fatalf("%+v, %v", exit, err)
		}
	}
	out.Close()
	l.eventually("the shim has forgotten it", func() bool {
		_, err := l.client.Wait(l.ctx, "c", "x")
		return errdefs.IsNotFound(err)
	})
	l.kill("c")
	l.finish("c")
}
