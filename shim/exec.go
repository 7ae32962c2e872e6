package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/cri-pouch/cri-pouch/internal/crash"
	"github.com/cri-pouch/cri-pouch/internal/pollfile"
	"github.com/cri-pouch/cri-pouch/internal/shimstate"
	shimapi "github.com/cri-pouch/cri-pouch/shim/api/v1"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

// execsMax bounds the execs of a container that run or wait to be deleted: each costs the shim memory and descriptors.
const execsMax = 256

// execution is a further process of a container, from Exec to Delete.
type execution struct {
	c                     *container
	id                    string
	spec                  *specs.Process
	stdin, stdout, stderr string
	terminal              bool

	mu        sync.Mutex
	begun     bool
	process   *process // nil until it runs
	startedAt time.Time
	caller    *pollfile.File // from watchCaller, until it is forgotten
}

// addExec books an exec'd process; startExec makes it.
func (c *container) addExec(e *execution, spec []byte) error {
	if err := shimstate.CheckID(e.id); err != nil {
		return err
	}
	e.c, e.spec = c, &specs.Process{}
	if err := json.Unmarshal(spec, e.spec); err != nil {
		return fmt.Errorf("exec in container %s: process: %w (%w)", c.id, err, errdefs.ErrInvalidArgument)
	}
	if len(spec) > maxSpec || len(e.spec.Args) == 0 {
		return fmt.Errorf("exec in container %s: the process has no arguments, or too many: %w", c.id, errdefs.ErrInvalidArgument)
	}
	e.spec.Terminal = e.terminal
	c.s.host.fit(e.spec, c.userns)
	if err := c.demandExec(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.execs[e.id] != nil {
		return fmt.Errorf("exec %s is already in container %s: %w", e.id, c.id, errdefs.ErrAlreadyExists)
	}
	if len(c.execs) >= execsMax {
		return fmt.Errorf("exec in container %s: %d execs of it run, or have ended and were not deleted; end or delete some of them: %w", c.id, len(c.execs), errdefs.ErrResourceExhausted)
	}
	c.execs[e.id] = e
	return nil
}

// demandExec gives an error unless a process can be made in the container: joining a frozen cgroup would hang, and what a
// prestart hook leaves behind could not be told from it.
func (c *container) demandExec() error {
	if err := c.demand("exec in", task.Created, task.Running); err != nil {
		return err
	}
	if err := c.demandNoHooks("exec in"); err != nil {
		return err
	}
	return c.demandFewStuck("exec in")
}

func (c *container) exec(id string) (*execution, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.execs[id]; e != nil {
		return e, nil
	}
	return nil, fmt.Errorf("exec %s is not in container %s: %w", id, c.id, errdefs.ErrNotFound)
}

func (c *container) forgetExec(e *execution) {
	c.mu.Lock()
	if c.execs[e.id] == e {
		delete(c.execs, e.id)
	}
	c.mu.Unlock()
	e.leaveCaller()
}

// start runs the process. After a failure the exec is forgotten.
func (e *execution) start(ctx context.Context) (pid int, err error) {
	e.mu.Lock()
	again := e.begun
	e.begun = true
	e.mu.Unlock()
	if again {
		return 0, fmt.Errorf("exec %s in container %s has been started before: %w", e.id, e.c.id, errdefs.ErrFailedPrecondition)
	}
	defer func() {
		if err != nil {
			e.c.forgetExec(e)
			err = fmt.Errorf("exec in container %s: %w", e.c.id, err)
		}
	}()
	release, err := e.c.take(ctx)
	if err != nil {
		return 0, err
	}
	defer release()
	if err := e.c.demandExec(); err != nil {
		return 0, err
	}
	drop, err := e.c.init.keep()
	if err != nil {
		return 0, err
	}
	defer drop()
	waiting, cancel := e.c.whileAlive(ctx)
	defer cancel()
	slot, err := e.c.s.slots.acquire(waiting, e.c.pod) // after the container's own: one that hangs must not keep others' slots
	if err != nil {
		return 0, err
	}
	after, err := e.c.s.launch(waiting, createLimit, "exec", nil, e.launch)
	slot.release(after)
	e.c.abandon(after)
	if err != nil {
		return 0, explain(err)
	}
	if ctx.Err() != nil { // nobody would ever wait for it
		err := e.kill(unix.SIGKILL, true)
		return 0, errors.Join(fmt.Errorf("the caller gave up: %w", ctx.Err()), err)
	}
	return e.process.pid, nil
}

func (e *execution) launch(l *launch) error {
	lp, err := newProcess(e.spec)
	if err != nil {
		return err
	}
	var io streams
	var theirs *childFiles
	var tty *console
	if e.terminal {
		if tty, theirs, err = newConsole(lp); err == nil {
			io, err = tty, tty.connect(e.stdin, e.stdout)
		}
	} else {
		io, theirs, err = newDirect(e.stdin, e.stdout, e.stderr, lp)
	}
	if err != nil {
		if theirs != nil {
			theirs.close()
		}
		return err
	}
	alive, err := e.watchCaller()
	if err != nil {
		theirs.close()
		if tty != nil {
			tty.close()
		}
		return err
	}
	now := time.Now()
	err = e.c.enter(lp)
	theirs.close()
	if err == nil && tty != nil {
		err = tty.receive()
	}
	var p *process
	if err == nil {
		p, err = adopt(lp, io)
	}
	if err != nil {
		if tty != nil {
			tty.close()
		}
		e.c.reap(lp)
		_ = alive.Close()
		return err
	}
	io.start()
	l.adopted(p)
	e.mu.Lock()
	e.process, e.startedAt, e.caller = p, now, alive
	e.mu.Unlock()
	crash.Go(e.c.log, "wait for an exec", func() { p.follow(e.c.log.WithField("exec", e.id)) })
	if alive != nil {
		crash.Go(e.c.log, "end an exec with its caller", func() { e.endWithCaller(p, alive) })
	}
	return nil
}

// isRuncInit reports whether a process of this name has not begun its program.
func isRuncInit(comm string) bool { return len(comm) > 5 && comm[:5] == "runc:" }

// started gives the process, or nil before it runs.
func (e *execution) started() *process {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.process
}

// running gives the process, or an error that says that there is none.
func (e *execution) running() (*process, error) {
	if p := e.started(); p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("exec %s in container %s has not been started: %w", e.id, e.c.id, errdefs.ErrFailedPrecondition)
}

// remove forgets an ended exec, or one that never began.
func (e *execution) remove() (*process, error) {
	p := e.started()
	if p != nil && !p.ended() {
		return nil, fmt.Errorf("exec %s in container %s is still running: %w", e.id, e.c.id, errdefs.ErrFailedPrecondition)
	}
	e.c.forgetExec(e)
	return p, nil
}

func (e *execution) info() *shimapi.Process {
	e.mu.Lock()
	defer e.mu.Unlock()
	info := &shimapi.Process{Id: e.c.id, ExecId: e.id, Status: string(task.Created)}
	if e.process == nil {
		return info
	}
	info.Pid, info.StartedAt, info.Status = uint32(e.process.pid), timestamppb.New(e.startedAt), string(task.Running)
	if e.process.ended() {
		info.Status, info.Exit = string(task.Stopped), toAPI(e.process.exit)
	}
	return info
}
