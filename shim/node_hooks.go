package shim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-pouch/cri-pouch/internal/hookrun"
)

// nodeGrace is what createContainer hooks may be late before they are ended from outside.
const nodeGrace = time.Second

// nodeHooks are the hooks of the node for one container: programs of the administrator's, as the OCI specification has them.
// The nil value has none.
type nodeHooks struct {
	c       *container
	hooks   specs.Hooks
	plan    hookrun.NodePlan
	process *specs.Process // the container's, whose user and limits startContainer hooks have
	late    atomic.Bool    // the createContainer hooks were ended from outside
	stop    sync.Once

	mu        sync.Mutex
	left      time.Duration // of hookrun.NodeStartLimit
	results   []hookrun.Result
	createdBy func() // ends the guard of createContainer hooks
}

// newNodeHooks gives nil where no hook concerns the container.
func newNodeHooks(c *container, spec *specs.Spec) (*nodeHooks, error) {
	if spec.Hooks == nil {
		return nil, nil
	}
	plan, err := hookrun.ReadNodePlan(c.bundle)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	h := &nodeHooks{c: c, hooks: *spec.Hooks, plan: plan, process: spec.Process, left: hookrun.NodeStartLimit}
	annotations := maps.Clone(plan.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	maps.Copy(annotations, spec.Annotations) // what tells whose container it is cannot be taken by a pod's
	h.plan.Annotations = annotations
	return h, nil
}

// install leaves to libcontainer what only it can do: it calls back at the point for prestart and createRuntime hooks, and
// runs createContainer hooks in the container's first process.
func (h *nodeHooks) install(config *configs.Config) {
	config.Hooks = configs.Hooks{}
	if h == nil {
		return
	}
	for key, value := range h.plan.Annotations {
		if _, there := cutLabel(config.Labels, key); !there {
			config.Labels = append(config.Labels, key+"="+value)
		}
	}
	config.Hooks[configs.CreateRuntime] = configs.HookList{configs.NewFunctionHook(func(s *specs.State) error {
		for _, stage := range []hookrun.Stage{hookrun.Prestart, hookrun.CreateRuntime} {
			if err := h.run(stage, specs.StateCreating, s.Pid); err != nil {
				return err
			}
		}
		h.guardCreateContainer()
		return nil
	})}
	for _, hook := range h.hooks.CreateContainer {
		timeout := h.limit(hook)
		config.Hooks[configs.CreateContainer] = append(config.Hooks[configs.CreateContainer], configs.NewCommandHook(&configs.Command{
			Path: hook.Path, Args: arguments(hook), Env: environment(hook), Timeout: &timeout,
		}))
	}
}

func cutLabel(labels []string, key string) (string, bool) {
	for _, l := range labels {
		if name, value, ok := strings.Cut(l, "="); ok && name == key {
			return value, true
		}
	}
	return "", false
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

// limit is the deadline of one hook.
func (h *nodeHooks) limit(hook specs.Hook) time.Duration {
	limit := hookrun.NodeStartLimit
	if hook.Timeout != nil {
		limit = min(limit, time.Duration(*hook.Timeout)*time.Second)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return min(limit, h.left)
}

// extra is what creating the container may take longer than without hooks.
func (h *nodeHooks) extra() time.Duration {
	if h == nil {
		return 0
	}
	return hookrun.NodeStartLimit + nodeGrace
}

// run runs the hooks of one stage in order; the first that fails ends it.
func (h *nodeHooks) run(stage hookrun.Stage, status specs.ContainerState, pid int) error {
	if h == nil {
		return nil
	}
	state := h.state(status, pid)
	for i, hook := range *hookrun.StageOf(&h.hooks, stage) {
		limit := h.limit(hook)
		var r hookrun.Result
		switch {
		case limit <= 0:
			r = hookrun.Result{Outcome: hookrun.Skipped, Message: fmt.Sprintf("the node's hooks have used up the %s that they have together at the start of a container", hookrun.NodeStartLimit)}
		case stage == hookrun.StartContainer:
			r = h.runInside(hook, state, limit)
		default:
			r = runOnHost(hook, state, limit)
		}
		h.mu.Lock()
		h.left -= r.Duration
		h.mu.Unlock()
		h.note(stage, i, r)
		if r.Outcome != hookrun.Succeeded {
			return h.failure(stage, i, r)
		}
	}
	return nil
}

// poststop runs the hooks for the end of the container, once; what fails is told and changes nothing.
func (h *nodeHooks) poststop() {
	if h == nil {
		return
	}
	h.stop.Do(func() {
		state, deadline := h.state(specs.StateStopped, 0), time.Now().Add(hookrun.NodeStopLimit)
		for i, hook := range h.hooks.Poststop {
			limit := time.Until(deadline)
			if hook.Timeout != nil {
				limit = min(limit, time.Duration(*hook.Timeout)*time.Second)
			}
			r := hookrun.Result{Outcome: hookrun.Skipped, Message: fmt.Sprintf("the node's hooks have used up the %s that they have together after the end of a container", hookrun.NodeStopLimit)}
			if limit > 0 {
				r = runOnHost(hook, state, limit)
			}
			h.note(hookrun.Poststop, i, r)
			if r.Outcome != hookrun.Succeeded {
				h.c.log.WithError(h.failure(hookrun.Poststop, i, r)).Warn("a hook of the node failed after the end of the container")
			}
		}
	})
}

// state is what a hook reads on stdin (runtime.md, State).
func (h *nodeHooks) state(status specs.ContainerState, pid int) specs.State {
	return specs.State{Version: specs.Version, ID: h.c.id, Status: status, Pid: pid, Bundle: h.c.bundle, Annotations: h.plan.Annotations}
}

// note keeps a result for the daemon.
func (h *nodeHooks) note(stage hookrun.Stage, i int, r hookrun.Result) {
	r.Stage, r.Name = stage, h.file(stage, i)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.results = append(h.results, r)
	if err := hookrun.WriteNodeResults(h.c.bundle, h.results); err != nil && !errors.Is(err, fs.ErrNotExist) {
		h.c.log.WithError(err).Warn("results of the node's hooks")
	}
}

// file is the name of the file that declares a hook.
func (h *nodeHooks) file(stage hookrun.Stage, i int) string {
	if files := h.plan.Files[stage]; i < len(files) {
		return files[i]
	}
	return (*hookrun.StageOf(&h.hooks, stage))[i].Path
}

// failure names the hook and says what became of it.
func (h *nodeHooks) failure(stage hookrun.Stage, i int, r hookrun.Result) error {
	hook := (*hookrun.StageOf(&h.hooks, stage))[i]
	text := fmt.Sprintf("the node's %s hook %s (%s) ", stage, h.file(stage, i), hook.Path)
	var class error = errdefs.ErrAborted
	switch r.Outcome {
	case hookrun.TimedOut:
		text, class = text+r.Message, context.DeadlineExceeded
	case hookrun.Skipped:
		text += "was not run: " + r.Message
	default:
		if r.Message == "" {
			r.Message = fmt.Sprintf("failed with exit code %d", r.ExitCode)
		}
		text += r.Message
	}
	if r.Output != "" {
		text += ": " + lastLines(r.Output)
	}
	return fmt.Errorf("%s: %w", text, class)
}

// lastLines keeps an error message readable: the end of what a hook wrote, in one line.
func lastLines(output string) string {
	lines := strings.Split(strings.TrimSpace(output), "\n")
	lines = lines[max(0, len(lines)-5):]
	text := strings.Join(lines, " | ")
	return strings.ToValidUTF8(text[max(0, len(text)-1024):], "")
}

// guardCreateContainer ends a creation whose createContainer hooks hang in a way that libcontainer, which runs them, waits
// for without an end: it wants the end of their output, which whatever they left behind may hold open.
func (h *nodeHooks) guardCreateContainer() {
	if len(h.hooks.CreateContainer) == 0 {
		return
	}
	var sum time.Duration
	for _, hook := range h.hooks.CreateContainer {
		sum += h.limit(hook)
	}
	h.mu.Lock()
	limit := min(sum, h.left) + nodeGrace
	h.mu.Unlock()
	begun := time.Now()
	timer := time.AfterFunc(limit, func() {
		h.late.Store(true)
		h.c.killLate()
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	h.createdBy = func() {
		timer.Stop()
		h.mu.Lock()
		defer h.mu.Unlock()
		h.left -= time.Since(begun)
	}
}

// created ends the guard: the creation has succeeded or failed.
func (h *nodeHooks) created() {
	if h == nil {
		return
	}
	h.mu.Lock()
	end := h.createdBy
	h.createdBy = nil
	h.mu.Unlock()
	if end != nil {
		end()
	}
}

// failedInside is how libcontainer tells of a hook that failed in the container's first process.
var failedInside = regexp.MustCompile(`(?s)error running createContainer hook #(\d+): (.*)`)

// explain names the createContainer hook in an error of libcontainer's.
func (h *nodeHooks) explain(err error) error {
	if h == nil || err == nil || len(h.hooks.CreateContainer) == 0 {
		return err
	}
	if h.late.Load() {
		var names []string
		for i, hook := range h.hooks.CreateContainer {
			names = append(names, fmt.Sprintf("%s (%s)", h.file(hookrun.CreateContainer, i), hook.Path))
		}
		h.note(hookrun.CreateContainer, len(names)-1, hookrun.Result{Outcome: hookrun.TimedOut, ExitCode: 137})
		return fmt.Errorf("the node's createContainer hooks %s did not end in time, or left processes that hold their output: %w", strings.Join(names, ", "), context.DeadlineExceeded)
	}
	m := failedInside.FindStringSubmatch(err.Error())
	if m == nil {
		return err
	}
	i, numberErr := strconv.Atoi(m[1])
	if numberErr != nil || i >= len(h.hooks.CreateContainer) {
		return err
	}
	text := strings.ToValidUTF8(m[2][:min(len(m[2]), hookrun.OutputMax)], "")
	r := hookrun.Result{Outcome: hookrun.Failed, ExitCode: 1, Message: "failed: " + lastLines(text)}
	if strings.HasPrefix(text, "hook ran past specified timeout") {
		r = hookrun.Result{Outcome: hookrun.TimedOut, ExitCode: 137, Message: text}
	} else if code := exitStatus.FindStringSubmatch(text); code != nil {
		r.ExitCode, _ = strconv.Atoi(code[1])
	}
	h.note(hookrun.CreateContainer, i, r)
	return h.failure(hookrun.CreateContainer, i, r)
}

var exitStatus = regexp.MustCompile(`^exit status (\d+)`)
