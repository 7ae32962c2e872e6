package shim

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/hookrun"
	"github.com/cri-pouch/cri-pouch/internal/pidfd"
)

// leftoverLimit is how long the end of a hook's output is waited for when the hook has ended: what it left behind may hold it.
const leftoverLimit = 100 * time.Millisecond

// runOnHost runs a hook of the node in the shim's own namespaces, in a process group of its own, which is killed when the
// hook fails or is late. What a hook that succeeded left running is its own affair.
func runOnHost(hook specs.Hook, state specs.State, limit time.Duration) hookrun.Result {
	begun := time.Now()
	stdio, err := newHookStdio(state)
	if err != nil {
		return cannotRun(begun, err)
	}
	cmd := exec.Cmd{
		Path: hook.Path, Args: arguments(hook), Env: environment(hook), Dir: "/",
		Stdin: stdio.stdin, Stdout: stdio.theirs, Stderr: stdio.theirs,
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true},
	}
	err = cmd.Start()
	stdio.started()
	if err != nil {
		stdio.finish()
		return cannotRun(begun, err)
	}
	p := hookProcess{
		pid:  cmd.Process.Pid,
		kill: func() { _ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) },
		reap: cmd.Process.Wait,
	}
	return p.result(begun, limit, stdio)
}

// startContainerHooks runs the node's hooks inside the created container, before anything of the pod's author runs there.
func (c *container) startContainerHooks() error {
	if c.node == nil {
		return nil
	}
	release, err := c.take(c.life)
	if err != nil {
		return err
	}
	defer release()
	if c.life.Err() != nil {
		return errDestroyed
	}
	return c.node.run(hookrun.StartContainer, specs.StateCreated, c.init.pid)
}

// runInside runs a startContainer hook in the created container: its path, namespaces, cgroup, user and capabilities are
// those of the container's process. libcontainer would run it after it has told that the program begins, where nobody
// learns of a failure.
func (h *nodeHooks) runInside(hook specs.Hook, state specs.State, limit time.Duration) hookrun.Result {
	begun := time.Now()
	state.Pid = pidInside(state.Pid)
	spec := *h.process
	spec.Args, spec.Env, spec.Terminal = arguments(hook), environment(hook), false
	spec.Args = append([]string{hook.Path}, spec.Args[1:]...)
	lp, err := newProcess(&spec)
	if err != nil {
		return cannotRun(begun, err)
	}
	stdio, err := newHookStdio(state)
	if err != nil {
		return cannotRun(begun, err)
	}
	lp.Stdin, lp.Stdout, lp.Stderr = stdio.stdin, stdio.theirs, stdio.theirs
	_, ended := h.c.s.launches.begin()
	defer ended()
	// What ends one that hangs before its execve ends the container too, which is what becomes of it after such a failure.
	after, err := within(limit, "start of the hook", h.c.killSilently, func() error { return h.c.lc.Start(lp) })
	select {
	case <-after:
		stdio.started()
	default:
		go func() {
			<-after
			stdio.started()
			h.c.reap(lp)
		}()
	}
	if err != nil {
		stdio.finish()
		return cannotRun(begun, explain(err))
	}
	pid, err := lp.Pid()
	if err != nil {
		stdio.finish()
		return cannotRun(begun, err)
	}
	p := hookProcess{pid: pid, kill: func() { _ = lp.Signal(unix.SIGKILL) }, reap: lp.Wait}
	return p.result(begun, limit-time.Since(begun), stdio)
}

// killSilently is killLate for a container whose end nobody is to be told of.
func (c *container) killSilently() {
	c.mu.Lock()
	c.silent = true
	c.mu.Unlock()
	c.killLate()
}

// pidInside gives a process's pid in its own pid namespace (NSpid of proc(5) status); 0 if that cannot be told.
func pidInside(pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), "\nNSpid:")
	line, _, _ := strings.Cut(rest, "\n")
	inside := 0
	for field := range strings.FieldsSeq(line) {
		_, _ = fmt.Sscan(field, &inside)
	}
	return inside
}

func cannotRun(begun time.Time, err error) hookrun.Result {
	return hookrun.Result{Outcome: hookrun.Failed, ExitCode: 126, StartedAt: begun, Duration: time.Since(begun), Message: "cannot be run: " + err.Error()}
}

// hookProcess is a hook that has been started: a child of the shim that nobody else reaps.
type hookProcess struct {
	pid  int
	kill func()                           // it, and on the host its process group
	reap func() (*os.ProcessState, error) // once it has ended
}

// result waits for the hook's end, at most for limit and what its death takes.
func (p hookProcess) result(begun time.Time, limit time.Duration, stdio *hookStdio) hookrun.Result {
	r := hookrun.Result{Outcome: hookrun.Succeeded, StartedAt: begun}
	ended := make(chan int, 1)
	go func() { ended <- p.wait() }()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case r.ExitCode = <-ended:
	case <-timer.C:
		r.Outcome, r.Message = hookrun.TimedOut, fmt.Sprintf("did not end within %s and was killed", limit.Round(100*time.Millisecond))
		p.kill()
		timer.Reset(killLimit)
		select {
		case r.ExitCode = <-ended:
		case <-timer.C:
			r.Message, r.ExitCode = r.Message+", which did not end it", 137
		}
	}
	if r.Outcome == hookrun.Succeeded && r.ExitCode != 0 {
		r.Outcome = hookrun.Failed
		p.kill() // what is left of its group
	}
	r.Output = stdio.finish()
	r.Duration = time.Since(begun)
	return r
}

// wait blocks without a thread until the hook has ended, reaps it and gives its exit code.
func (p hookProcess) wait() int {
	if fd, err := pidfd.Open(p.pid); err == nil {
		_ = fd.Wait()
		_ = fd.Close()
	}
	state, _ := p.reap()
	if state != nil {
		if ws, ok := state.Sys().(syscall.WaitStatus); ok {
			return int(code(ws))
		}
	}
	return 255
}

// hookStdio are the state on stdin and one pipe for all output.
type hookStdio struct {
	stdin, theirs, ours *os.File
	tail                tail
	done                chan struct{}
	once                sync.Once
}

func newHookStdio(state specs.State) (*hookStdio, error) {
	text, err := json.Marshal(state)
	if err != nil {
		return nil, fmt.Errorf("encode state: %w", err)
	}
	// A file and not a pipe: nobody has to wait for a hook that does not read.
	fd, err := unix.MemfdCreate("state", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a file for the state: %w", err)
	}
	stdin := os.NewFile(uintptr(fd), "state")
	if _, err = stdin.Write(text); err == nil {
		_, err = stdin.Seek(0, io.SeekStart)
	}
	if err != nil {
		stdin.Close()
		return nil, fmt.Errorf("write state: %w", err)
	}
	ours, theirs, err := os.Pipe()
	if err != nil {
		stdin.Close()
		return nil, fmt.Errorf("make a pipe for output: %w", err)
	}
	h := &hookStdio{stdin: stdin, ours: ours, theirs: theirs, done: make(chan struct{})}
	go func() {
		defer close(h.done)
		_, _ = io.Copy(&h.tail, ours)
	}()
	return h, nil
}

// started closes what the hook has now.
func (h *hookStdio) started() {
	h.once.Do(func() {
		_ = h.stdin.Close()
		_ = h.theirs.Close()
	})
}

// finish gives the end of the output.
func (h *hookStdio) finish() string {
	_ = h.ours.SetReadDeadline(time.Now().Add(leftoverLimit))
	<-h.done
	_ = h.ours.Close()
	return h.tail.text()
}

// tail keeps the last bytes of what is written to it.
type tail struct{ kept []byte }

func (t *tail) Write(b []byte) (int, error) {
	n := len(b)
	if n > hookrun.OutputMax {
		b = b[n-hookrun.OutputMax:]
	}
	if over := len(t.kept) + len(b) - hookrun.OutputMax; over > 0 {
		t.kept = append(t.kept[:0], t.kept[over:]...)
	}
	t.kept = append(t.kept, b...)
	return n, nil
}

func (t *tail) text() string { return strings.ToValidUTF8(string(t.kept), "?") }
