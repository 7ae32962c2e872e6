package shim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/crash"
	"github.com/cri-pouch/cri-pouch/internal/hookrun"
)

// hooks are those of one container. The prestart hooks run during its start, the poststop hooks between its end and the
// report of it: never two at a time.
type hooks struct {
	c           *container
	plan        hookrun.Plan // without the container of the poststop hooks
	cgroupsPath string       // of the container
	pids        *os.File     // the pid namespace that it shares; nil: it has one of its own
	results     []hookrun.Result
	current     atomic.Pointer[process] // the one that runs
}

// newHooks reads the plan; nil for a container without hooks.
func newHooks(c *container, spec *specs.Spec) (*hooks, error) {
	plan, err := hookrun.ReadPlan(c.bundle)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, list := range [][]hookrun.Hook{plan.Prestart, plan.Poststop} {
		for _, hook := range list {
			if hook.Name == "" || hook.Process == nil || len(hook.Process.Args) == 0 || hook.Timeout <= 0 {
				return nil, fmt.Errorf("plan of hooks: hook %q has no name, no command or no timeout: %w", hook.Name, errdefs.ErrInvalidArgument)
			}
			hook.Process.Terminal, hook.Process.ConsoleSize = false, nil
			c.s.host.fit(hook.Process, c.userns)
		}
	}
	h := &hooks{c: c, cgroupsPath: spec.Linux.CgroupsPath}
	if len(plan.Poststop) > 0 {
		if err := checkPoststopSpec(plan, h.cgroupsPath); err != nil {
			return nil, err
		}
		if err := h.holdPIDs(plan.PoststopSpec); err != nil {
			return nil, err
		}
	}
	plan.PoststopSpec = nil // it is large, and may be long in coming
	h.plan = plan
	return h, nil
}

// holdPIDs opens a pid namespace that is shared: its path has the number of a process in it, which is another's when that has
// ended by the time the poststop hooks run.
func (h *hooks) holdPIDs(spec *specs.Spec) (err error) {
	if ns := pidNamespace(spec); ns != nil && ns.Path != "" {
		if h.pids, err = os.Open(ns.Path); err != nil {
			return fmt.Errorf("plan of hooks: open the shared pid namespace: %w", err)
		}
	}
	return nil
}

func pidNamespace(spec *specs.Spec) *specs.LinuxNamespace {
	for i := range spec.Linux.Namespaces {
		if ns := &spec.Linux.Namespaces[i]; ns.Type == specs.PIDNamespace {
			return ns
		}
	}
	return nil
}

// close lets go of what is held for the poststop hooks.
func (h *hooks) close() {
	if h != nil && h.pids != nil {
		_ = h.pids.Close()
	}
}

func checkPoststopSpec(plan hookrun.Plan, cgroupsPath string) (err error) {
	p := plan.PoststopSpec
	if p == nil {
		err = fmt.Errorf("it is missing: %w", errdefs.ErrInvalidArgument)
	} else {
		p.Process = plan.Poststop[0].Process
		p.Hooks = nil // a node's OCI hooks belong to the container
		if err = checkSpec(p); err == nil && p.Linux.CgroupsPath == cgroupsPath {
			err = fmt.Errorf("linux.cgroupsPath is the container's own: %w", errdefs.ErrInvalidArgument)
		}
	}
	if err != nil {
		return fmt.Errorf("plan of hooks: container of the poststop hooks: %w", err)
	}
	return nil
}

// poststopSpec reads the container that the poststop hooks run in.
func (h *hooks) poststopSpec() (*specs.Spec, error) {
	plan, err := hookrun.ReadPlan(h.c.bundle)
	if err != nil {
		return nil, err
	}
	if len(plan.Poststop) == 0 {
		return nil, fmt.Errorf("plan of hooks: it has changed: %w", errdefs.ErrInvalidArgument)
	}
	if err := checkPoststopSpec(plan, h.cgroupsPath); err != nil {
		return nil, err
	}
	if h.pids != nil {
		pidNamespace(plan.PoststopSpec).Path = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), h.pids.Fd())
	}
	return plan.PoststopSpec, nil
}

// knows says whether a process is one of a hook that runs.
func (h *hooks) knows(pid int) bool {
	p := h.current.Load()
	return p != nil && p.pid == pid
}

// note adds a result and tells it to who reads the bundle.
func (h *hooks) note(r hookrun.Result) {
	h.results = append(h.results, r)
	if err := hookrun.WriteResults(h.c.bundle, h.results); err != nil {
		h.c.log.WithError(err).Error("the result of a hook is not known to others")
	}
	h.c.log.WithField("hook", r.Name).WithField("stage", r.Stage).WithField("outcome", r.Outcome).WithField("code", r.ExitCode).Debug("hook")
}

func (h *hooks) skip(stage hookrun.Stage, list []hookrun.Hook, why string) {
	for _, hook := range list {
		h.note(hookrun.Result{Stage: stage, Name: hook.Name, Outcome: hookrun.Skipped, Ignored: hook.Ignore, Message: why})
	}
}

// prestart runs the hooks of a created container one by one. The end of its init, or its removal, ends them.
func (c *container) prestart() error {
	if c.hooks == nil {
		return nil
	}
	if err := hookrun.Forget(c.bundle); err != nil {
		return err
	}
	if len(c.hooks.plan.Prestart) == 0 {
		return nil
	}
	c.setStarting(true)
	defer c.setStarting(false)
	resume := c.tree.SuspendOOMGroup() // the container's init is not to die with a hook
	defer func() {
		if err := resume(); err != nil {
			c.log.WithError(err).Error("the OOM killer will take single processes of the container")
		}
	}()
	ctx, cancel := c.prestartTime()
	defer cancel()
	crash.Go(c.log, "watch the prestart hooks", func() {
		defer cancel()
		select {
		case <-c.init.gone:
		case <-ctx.Done():
		}
	})
	list := c.hooks.plan.Prestart
	for i, hook := range list {
		result := c.hooks.run(ctx, hookrun.Prestart, hook, newPrestartPlace(c))
		if result.Outcome == hookrun.Failed {
			c.awaitDyingInit()
		}
		c.hooks.note(result)
		if c.life.Err() == nil && !c.init.isGone() && (result.Outcome == hookrun.Succeeded || hook.Ignore) {
			continue
		}
		c.hooks.skip(hookrun.Prestart, list[i+1:], "a hook before it has failed")
		switch {
		case c.init.isGone():
			return fmt.Errorf("prestart hook %q was ended: the container was killed meanwhile: %w", hook.Name, errdefs.ErrAborted)
		case c.life.Err() != nil:
			return fmt.Errorf("prestart hook %q was ended: %w", hook.Name, errDestroyed)
		}
		return fmt.Errorf("%s: %w", result, errdefs.ErrAborted)
	}
	return nil
}

// prestartTime is what the prestart hooks have: their own limit, and what is left of the start.
func (c *container) prestartTime() (context.Context, context.CancelFunc) {
	until, cause := time.Now().Add(hookrun.PrestartLimit), tookLonger(hookrun.Prestart+" hooks", hookrun.PrestartLimit)
	if c.startBy.Before(until) {
		until, cause = c.startBy, tookLonger("hooks before the program", hookrun.StartLimit)
	}
	return context.WithDeadlineCause(c.life, until, cause)
}

// tookLonger is why a hook was ended or not begun although its own time was not over.
func tookLonger(hooks hookrun.Stage, limit time.Duration) error {
	return fmt.Errorf("all %s together took longer than %s: %w", hooks, limit, context.DeadlineExceeded)
}

// awaitDyingInit waits for the end of an init that has been killed: the kernel takes the hook's processes with it and lets it
// end after them.
func (c *container) awaitDyingInit() {
	if c.init.isGone() || !c.killed.Load() && !isDying(c.init.pid) {
		return
	}
	select {
	case <-c.init.gone:
	case <-time.After(killLimit):
	}
}

func (c *container) setStarting(yes bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.starting = yes
}

// poststop runs the hooks of a container that has ended, in containers of their own, one after the other.
func (c *container) poststop(end ending) {
	if c.hooks == nil || len(c.hooks.plan.Poststop) == 0 {
		return
	}
	c.endOfProcesses(end)
	ctx, cancel := context.WithTimeoutCause(c.life, hookrun.PoststopLimit, tookLonger(hookrun.Poststop+" hooks", hookrun.PoststopLimit))
	defer cancel()
	facts := c.facts(end)
	list := c.hooks.plan.Poststop
	spec, err := c.hooks.poststopSpec()
	if err != nil {
		c.hooks.skip(hookrun.Poststop, list, err.Error())
		return
	}
	for i, hook := range list {
		if c.life.Err() != nil {
			c.hooks.skip(hookrun.Poststop, list[i:], "the container is being removed")
			return
		}
		process := *hook.Process
		process.Env = withEnv(process.Env, facts)
		hook.Process = &process
		c.hooks.note(c.hooks.run(ctx, hookrun.Poststop, hook, newPoststopPlace(c, *spec, hook)))
	}
}

// endOfProcesses makes sure that nothing of the container runs any more, and tells those who cannot wait for its hooks.
func (c *container) endOfProcesses(end ending) {
	ctx, cancel := context.WithTimeout(c.life, killLimit)
	defer cancel()
	if err := c.tree.Kill(ctx); err != nil {
		c.log.WithError(err).Error("processes of an ended container stay")
	}
	c.mu.Lock()
	c.ending = true
	e := hookrun.End{ExitCode: end.Code, OOMKilled: end.OOMKilled, StartedAt: c.startedAt, FinishedAt: end.ExitedAt}
	c.mu.Unlock()
	if err := e.Write(c.bundle); err != nil {
		c.log.WithError(err).Error("the end is not known to others before the hooks are done")
	}
}

// facts are the variables that tell a poststop hook of the end.
func (c *container) facts(end ending) [][2]string {
	reason := hookrun.Reason(end.Code, end.OOMKilled)
	// The init of a rich container may be killed when its application has ended already.
	if reason == hookrun.ReasonError && end.signal == unix.SIGKILL && c.killed.Load() && end.endedAt.UnixNano() >= c.killedAt.Load() {
		reason = "Killed"
	}
	signal := ""
	if end.signal != 0 {
		signal = strconv.Itoa(int(end.signal))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return [][2]string{
		{"POUCH_EXIT_CODE", strconv.FormatUint(uint64(end.Code), 10)},
		{"POUCH_SIGNAL", signal},
		{"POUCH_REASON", reason},
		{"POUCH_STARTED_AT", c.startedAt.UTC().Format(time.RFC3339Nano)},
		{"POUCH_FINISHED_AT", end.endedAt.UTC().Format(time.RFC3339Nano)},
	}
}

// withEnv sets variables, whatever the environment says of them.
func withEnv(env []string, set [][2]string) []string {
	var out []string
	for _, e := range env {
		name, _, _ := strings.Cut(e, "=")
		given := false
		for _, s := range set {
			given = given || s[0] == name
		}
		if !given {
			out = append(out, e)
		}
	}
	for _, s := range set {
		out = append(out, s[0]+"="+s[1])
	}
	return out
}
