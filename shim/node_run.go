package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/crash"
	"github.com/cri-pouch/cri-pouch/internal/hookrun"
	"github.com/cri-pouch/cri-pouch/internal/pidfd"
	"github.com/cri-pouch/cri-pouch/internal/shimstate"
)

// runOnHost runs a hook of the node in the shim's own namespaces, in a process group of its own, which is killed when the
// hook fails or is late. What a hook that succeeded left running is its own affair.
func runOnHost(ctx context.Context, hook specs.Hook, state specs.State, limit time.Duration) hookrun.Result {
	return runCommand(ctx, &exec.Cmd{Path: hook.Path, Args: arguments(hook), Env: environment(hook)}, state, limit, nil)
}

// runEntered runs a createContainer hook: a program of the node's in the container's namespaces and cgroup, where the node's
// files are still seen.
func (h *nodeHooks) runEntered(hook specs.Hook, state specs.State, limit time.Duration) hookrun.Result {
	init := state.Pid
	state.Pid = pidInside(init)
	if h.plan.PouchInit == "" {
		return cannotRun(time.Now(), fmt.Errorf("the plan has no pouch-init: %w", errdefs.ErrInvalidArgument))
	}
	args := append([]string{"pouch-enter", strconv.Itoa(init), hook.Path}, arguments(hook)...)
	return runCommand(h.c.alive, &exec.Cmd{Path: h.plan.PouchInit, Args: args, Env: environment(hook)}, state, limit, h.c.processes().Take)
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
	// libcontainer looks the program up by argv[0].
	spec.Args, spec.Env, spec.Terminal = append([]string{hook.Path}, arguments(hook)[1:]...), environment(hook), false
	lp, err := newProcess(&spec)
	if err != nil {
		return cannotRun(begun, err)
	}
	stdio, err := newHookStdio(state)
	if err != nil {
		return cannotRun(begun, err)
	}
	lp.Stdin, lp.Stdout, lp.Stderr = stdio.stdin, stdio.theirs, stdio.theirs
	// What ends one that hangs before its execve ends the container too, which is what becomes of it after such a failure.
	after, err := h.c.s.launch(h.c.alive, limit, "start of the hook", h.c.killSilently, func(*launch) error {
		defer stdio.started()
		return h.c.enter(lp)
	})
	h.c.abandon(after)
	if err != nil {
		crash.Go(h.c.log, "reap a hook that hangs", func() {
			<-after
			h.c.reap(lp)
		})
		r := cannotRun(begun, explain(err))
		r.Output = stdio.finish()
		return r
	}
	pid, err := lp.Pid()
	if err != nil {
		stdio.finish()
		return cannotRun(begun, err)
	}
	p := &hookProcess{pid: pid, kill: func() { _ = lp.Signal(unix.SIGKILL) }, reap: lp.Wait}
	return p.result(context.Background(), begun, limit-time.Since(begun), stdio)
}

// killSilently is killLate for a container whose end nobody is to be told of.
func (c *container) killSilently() {
	c.mu.Lock()
	c.silent = true
	c.mu.Unlock()
	c.killLate()
}

// runCommand runs a program of the node. With place it waits before it does anything until it has been put there.
func runCommand(ctx context.Context, cmd *exec.Cmd, state specs.State, limit time.Duration, place func(pid int) error) hookrun.Result {
	begun := time.Now()
	stdio, err := newHookStdio(state)
	if err != nil {
		return cannotRun(begun, err)
	}
	cmd.Dir, cmd.SysProcAttr = "/", &syscall.SysProcAttr{Setpgid: true}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdio.stdin, stdio.theirs, stdio.theirs
	goOn := func() {}
	if place != nil {
		wait, held, err := os.Pipe()
		if err != nil {
			stdio.started()
			stdio.finish()
			return cannotRun(begun, err)
		}
		defer wait.Close()
		goOn = func() { _ = held.Close() }
		defer goOn()
		cmd.ExtraFiles = []*os.File{wait}
	}
	err = startProgram(cmd)
	stdio.started()
	if err != nil {
		stdio.finish()
		return cannotRun(begun, err)
	}
	p := &hookProcess{
		pid:  cmd.Process.Pid,
		kill: func() { _ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) },
		reap: cmd.Process.Wait,
	}
	if place != nil {
		err = place(p.pid)
		if err != nil {
			p.kill()
		}
		goOn()
	}
	r := p.result(ctx, begun, limit, stdio)
	if err != nil {
		r.Message = err.Error()
	}
	return r
}

// arguments are argv; a hook without has its path.
func arguments(hook specs.Hook) []string {
	if len(hook.Args) == 0 {
		return []string{hook.Path}
	}
	return hook.Args
}

// environment is never nil, which would mean the shim's own.
func environment(hook specs.Hook) []string { return append([]string{}, hook.Env...) }

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
		inside, _ = strconv.Atoi(field)
	}
	return inside
}

func cannotRun(begun time.Time, err error) hookrun.Result {
	if pe := (*os.PathError)(nil); errors.As(err, &pe) { // the path is named anyway
		err = pe.Err
	}
	return hookrun.Result{Outcome: hookrun.Failed, ExitCode: unrunnableCode, StartedAt: begun, Duration: time.Since(begun), Message: "cannot be run: " + err.Error()}
}

// hookProcess is a hook that has been started: a child of the shim that nobody else reaps.
type hookProcess struct {
	pid  int
	kill func()                           // it, and on the host its process group
	reap func() (*os.ProcessState, error) // once it has ended

	mu     sync.Mutex
	reaped bool
}

// result waits for the hook's end, at most for limit and what its death takes. The end of ctx ends the hook.
func (p *hookProcess) result(ctx context.Context, begun time.Time, limit time.Duration, stdio *hookStdio) hookrun.Result {
	r := hookrun.Result{Outcome: hookrun.Succeeded, StartedAt: begun}
	ended := make(chan int, 1)
	crash.Go(nil, "wait for a hook", func() { ended <- p.wait() })
	timer := time.NewTimer(limit)
	defer timer.Stop()
	late := func() {
		p.end()
		timer.Reset(killLimit)
		select {
		case r.ExitCode = <-ended:
		case <-timer.C:
			r.Message, r.ExitCode = "it was killed and does not end", 128+int(unix.SIGKILL)
		}
	}
	select {
	case r.ExitCode = <-ended:
	case <-ctx.Done():
		r.Outcome, r.Message = hookrun.Failed, "it was killed: "+context.Cause(ctx).Error()
		late()
	case <-timer.C:
		r.Outcome = hookrun.TimedOut
		late()
	}
	if r.Outcome == hookrun.Succeeded && r.ExitCode != 0 {
		r.Outcome = hookrun.Failed
	}
	r.Duration = time.Since(begun)
	r.Output = stdio.finish()
	return r
}

// end kills the hook, unless it has been reaped: its number may be another's by then.
func (p *hookProcess) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.reaped {
		p.kill()
	}
}

// wait blocks without a thread until the hook has ended, reaps it and gives its exit code. Of one that has failed the rest of its
// group is killed while its number is still its own.
func (p *hookProcess) wait() int {
	fd, err := pidfd.Open(p.pid)
	if err != nil { // no descriptor is left: a thread waits
		return exitCode(p.reap())
	}
	_ = fd.Wait()
	_ = fd.Close()
	if st, err := shimstate.ReadStat(p.pid); err == nil && st.ExitStatus != 0 {
		p.end()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reaped = true
	return exitCode(p.reap())
}

func exitCode(state *os.ProcessState, _ error) int {
	if state != nil {
		if ws, ok := state.Sys().(syscall.WaitStatus); ok {
			return int(code(ws))
		}
	}
	return 255
}

// hookStdio are the state on stdin and one pipe for all output.
type hookStdio struct {
	stdin, theirs *os.File
	output        *hookOutput
	once          sync.Once
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
	h := &hookStdio{stdin: os.NewFile(uintptr(fd), "state")}
	if _, err = h.stdin.Write(text); err == nil {
		_, err = h.stdin.Seek(0, io.SeekStart)
	}
	if err == nil {
		h.output, h.theirs, err = newHookOutput(nil, hookrun.Hook{})
	}
	if err != nil {
		h.stdin.Close()
		return nil, fmt.Errorf("give the state to the hook: %w", err)
	}
	h.output.follower.start()
	return h, nil
}

// started closes what the hook has now.
func (h *hookStdio) started() {
	h.once.Do(func() {
		_ = h.stdin.Close()
		_ = h.theirs.Close()
	})
}

// finish gives the end of the output. What the hook left behind and holds the pipe is hardly waited for.
func (h *hookStdio) finish() string { return h.output.finish() }
