package client_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/shim/task"
)

// attached is a client's side of an attachment.
type attached struct {
	l            *lab
	in, out, err *os.File
	wait         func() error
	text         string
}

// pipe makes a FIFO and opens one end.
func (l *lab) pipe(name string, flag int) (string, *os.File) {
	l.t.Helper()
	path := filepath.Join(l.state, name)
	if err := unix.Mkfifo(path, 0o600); err != nil {
		l.t.Fatal(err)
	}
	f, err := os.OpenFile(path, flag|unix.O_NONBLOCK, 0)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { f.Close() })
	return path, f
}

// attach attaches to a container; stderr only where it has no terminal.
func (l *lab) attach(id string, stdin, terminal bool) *attached {
	l.t.Helper()
	a := &attached{l: l}
	name := fmt.Sprintf("attach%d", time.Now().UnixNano())
	r := task.AttachRequest{ID: id}
	r.Stdout, a.out = l.pipe(name+"out", os.O_RDONLY)
	if !terminal {
		r.Stderr, a.err = l.pipe(name+"err", os.O_RDONLY)
	}
	if stdin {
		r.Stdin, a.in = l.pipe(name+"in", os.O_RDWR)
	}
	wait, err := l.client.Attach(l.ctx, r)
	if err != nil {
		l.t.Fatal(err)
	}
	a.wait = wait
	return a
}

// until reads stdout until it holds text.
func (a *attached) until(text string) {
	a.l.t.Helper()
	piece := make([]byte, 64<<10)
	_ = a.out.SetReadDeadline(time.Now().Add(longEnough))
	for !strings.Contains(a.text, text) {
		n, err := a.out.Read(piece)
		a.text += string(piece[:n])
		if err != nil {
			a.l.t.Fatalf("no %q in %.1000q: %v", text, a.text, err)
		}
	}
}

func (a *attached) send(text string) {
	a.l.t.Helper()
	if _, err := a.in.WriteString(text); err != nil {
		a.l.t.Fatal(err)
	}
}

// end waits for the attachment's end.
func (a *attached) end() error {
	a.l.t.Helper()
	done := make(chan error, 1)
	go func() { done <- a.wait() }()
	select {
	case err := <-done:
		return err
	case <-time.After(longEnough):
		a.l.t.Fatal("the attachment did not end")
		return nil
	}
}

func (l *lab) typed(id, script string, once, terminal bool) {
	l.t.Helper()
	spec := l.spec(id, "sh", "-c", script)
	spec.Process.Terminal = terminal
	r := l.request(id, spec)
	r.Stdin, r.StdinOnce = true, once
	l.run(r)
}

func TestAttachCopiesTheOutput(t *testing.T) {
	l := newLab(t)
	l.typed("c", "while read x; do echo got $x; echo oops $x >&2; done; echo end", false, false)
	a, b := l.attach("c", true, false), l.attach("c", true, false)
	a.send("one\n")
	a.until("got one\n")
	b.until("got one\n")
	b.send("two\n")
	a.until("got two\n")
	// The end of a client's input is not the container's.
	b.in.Close()
	a.send("three\n")
	b.until("got three\n")
	if err := l.client.CloseIO(l.ctx, "c", ""); err != nil {
		t.Fatal(err)
	}
	for _, x := range []*attached{a, b} {
		x.until("end\n")
		if err := x.end(); err != nil {
			t.Error(err)
		}
	}
	stderr := make([]byte, 1000)
	if n, err := a.err.Read(stderr); err != nil || string(stderr[:n]) != "oops one\noops two\noops three\n" {
		t.Errorf("stderr has %q, %v", stderr[:n], err)
	}
	if exit := l.finish("c"); exit.Code != 0 {
		t.Errorf("code %d", exit.Code)
	}
	if text := l.text("c", "stdout"); text != "got one\ngot two\ngot three\nend\n" {
		t.Errorf("the log has %q", text)
	}
}

func TestAttachStdinOnce(t *testing.T) {
	l := newLab(t)
	for name, end := range map[string]func(a *attached){
		"its input ends":      func(a *attached) { a.in.Close() },
		"the client vanishes": func(a *attached) { a.in.Close(); a.out.Close(); a.err.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			l.typed("c", "cat; echo end; sleep 1000", true, false)
			a := l.attach("c", true, false)
			a.send("line\n")
			a.until("line\n")
			end(a)
			l.eventually("the container sees the end of its input", func() bool { return strings.Contains(l.text("c", "stdout"), "end\n") })
			late := l.attach("c", true, false)
			late.send(strings.Repeat("too late\n", 100_000)) // is dropped, and nobody waits for it
			l.kill("c")
			l.finish("c")
			_ = os.Remove(l.logPath("c"))
		})
	}
}

func TestAttachToATerminal(t *testing.T) {
	l := newLab(t)
	l.typed("c", "stty -echo; echo ready; while read x; do echo got $x; stty size; done", false, true)
	a := l.attach("c", true, true)
	l.eventually("the program runs", func() bool { return strings.Contains(l.text("c", "stdout"), "ready") })
	if err := l.client.ResizePty(l.ctx, "c", "", 91, 31); err != nil {
		t.Fatal(err)
	}
	a.send("one\n")
	a.until("got one\r\n31 91\r\n")
	b := l.attach("c", true, true)
	b.send("two\n")
	a.until("got two")
	b.until("got two")
	b.out.Close()
	if err := b.end(); !errdefs.IsAborted(err) {
		t.Errorf("detached: %v", err)
	}
	l.kill("c")
	if err := a.end(); err != nil {
		t.Error(err)
	}
	l.wait("c")
	if err := l.client.ResizePty(l.ctx, "c", "", 91, 31); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("resize of a dead terminal: %v", err)
	}
	l.finish("c")
}

// A client that reads nothing is detached, and neither container nor log has waited for it.
func TestAttachSlowReader(t *testing.T) {
	l := newLab(t)
	for _, terminal := range []bool{false, true} {
		id := fmt.Sprintf("c%v", terminal)
		// It goes on when the one that reads has got what it wrote, however slow the machine is.
		l.typed(id, "read go; i=0; while [ $i -lt 50 ]; do seq 1 10000; i=$((i+1)); echo chunk $i; read more; done; echo end; read x", false, terminal)
		stuck, reads := l.attach(id, true, terminal), l.attach(id, true, terminal)
		stuck.send("\n")
		for i := range 50 {
			reads.until(fmt.Sprintf("chunk %d", i+1))
			reads.send("\n")
		}
		reads.until("end")
		if err := stuck.end(); !errdefs.IsResourceExhausted(err) {
			t.Errorf("terminal %v: %v", terminal, err)
		}
		if got := strings.Count(reads.text, "\n"); got < 500_001 {
			t.Errorf("terminal %v: the other client has %d lines", terminal, got)
		}
		l.eventually("the log is complete", func() bool {
			return strings.HasSuffix(strings.ReplaceAll(l.text(id, "stdout"), "\r", ""), "end\n")
		})
		l.kill(id)
		l.finish(id)
	}
}

func TestAttachLeavesNothing(t *testing.T) {
	l := newLab(t)
	l.typed("c", "sleep 1000", false, false)
	l.attach("c", true, false).out.Close() // what is made once
	files := func() int {
		entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", l.client.Pid()))
		return len(entries)
	}
	l.eventually("the first is gone", func() bool { return !l.hasFIFO("attach") })
	before := files()
	for range 20 {
		a := l.attach("c", true, false)
		_ = a.in.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
		if _, err := a.in.Write(make([]byte, 1<<20)); !errors.Is(err, os.ErrDeadlineExceeded) { // the container takes none of it
			t.Errorf("the input was taken: %v", err)
		}
		a.in.Close()
		a.out.Close()
		if err := a.end(); !errdefs.IsAborted(err) {
			t.Errorf("detached: %v", err)
		}
	}
	l.eventually("all descriptors are closed", func() bool { return files() <= before && !l.hasFIFO("attach") })
	var all []*attached
	for range 32 {
		all = append(all, l.attach("c", false, false))
	}
	path, _ := l.pipe("onemore", os.O_RDONLY)
	if _, err := l.client.Attach(l.ctx, task.AttachRequest{ID: "c", Stdout: path}); !errdefs.IsResourceExhausted(err) {
		t.Errorf("the 33rd: %v", err)
	}
	l.kill("c")
	for _, a := range all {
		if err := a.end(); err != nil {
			t.Error(err)
		}
	}
	l.finish("c")
}

// hasFIFO says whether the shim has a FIFO open whose name holds text.
func (l *lab) hasFIFO(text string) bool {
	dir := fmt.Sprintf("/proc/%d/fd", l.client.Pid())
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if to, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil && strings.Contains(to, text) {
			return true
		}
	}
	return false
}

func TestAttachBadInput(t *testing.T) {
	l := newLab(t)
	l.shell("c", "sleep 1000")
	out, _ := l.pipe("out", os.O_RDONLY)
	in, _ := l.pipe("in", os.O_RDWR)
	unread, f := l.pipe("unread", os.O_RDONLY)
	f.Close()
	file := filepath.Join(l.state, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		r  task.AttachRequest
		is func(error) bool
	}{
		"unknown container":            {task.AttachRequest{ID: "none", Stdout: out}, errdefs.IsNotFound},
		"no stdout":                    {task.AttachRequest{ID: "c"}, errdefs.IsInvalidArgument},
		"stdin of a container without": {task.AttachRequest{ID: "c", Stdout: out, Stdin: in}, errdefs.IsFailedPrecondition},
		"nobody reads":                 {task.AttachRequest{ID: "c", Stdout: unread}, errdefs.IsFailedPrecondition},
		"not a FIFO":                   {task.AttachRequest{ID: "c", Stdout: file}, errdefs.IsInvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := l.client.Attach(l.ctx, tc.r); !tc.is(err) {
				t.Errorf("got %v", err)
			}
		})
	}
	l.kill("c")
	l.wait("c")
	if _, err := l.client.Attach(l.ctx, task.AttachRequest{ID: "c", Stdout: out}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("ended: %v", err)
	}
	l.finish("c")
}

// An exec dies with its caller, that is with the reading end of its stdout.
func TestExecEndsWithItsCaller(t *testing.T) {
	l := newLab(t)
	l.shell("c", "sleep 1000")
	path, out := l.pipe("out", os.O_RDONLY)
	_, err := l.client.Exec(l.ctx, task.ExecRequest{ID: "c", ExecID: "x", Process: l.process("sh", "-c", "trap '' PIPE TERM HUP; sleep 9876 & sleep 9876"), Stdout: path})
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
	l.eventually("it has its children", func() bool { return count() == 3 })
	out.Close()
	l.eventually("all are killed", func() bool { return count() == 1 })
	l.eventually("the shim has forgotten it", func() bool {
		_, err := l.client.Wait(context.Background(), "c", "x")
		return errdefs.IsNotFound(err)
	})
	l.kill("c")
	l.finish("c")
}
