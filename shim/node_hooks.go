package shim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-pouch/cri-pouch/internal/hookrun"
)

// nodeHooks are the hooks of the node for one container: programs of the administrator's, as the OCI specification has them.
// A nil one has none.
type nodeHooks struct {
	c       *container
	hooks   specs.Hooks
	plan    hookrun.NodePlan
	process *specs.Process // the container's, whose user and limits startContainer hooks have
	stop    sync.Once

	mu      sync.Mutex
	left    time.Duration // of hookrun.NodeStartLimit
	failed  error         // of the hook that ended the creation
	results []hookrun.Result
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
	if plan.Annotations == nil {
		plan.Annotations = map[string]string{}
	}
	maps.Copy(plan.Annotations, spec.Annotations) // what tells whose container it is cannot be a pod's
	return &nodeHooks{c: c, hooks: *spec.Hooks, plan: plan, process: spec.Process, left: hookrun.NodeStartLimit}, nil
}

// install has libcontainer call back where the hooks of a creation belong: all namespaces, mounts and cgroups of the container
// are there, its root is not its root yet. libcontainer runs none by itself: it would wait for the end of a hook's output
// whatever the hook's deadline, keep all of it, and let a hook inside have descriptors of its own.
func (h *nodeHooks) install(config *configs.Config) {
	config.Hooks = configs.Hooks{}
	if h == nil {
		return
	}
	config.Hooks[configs.CreateRuntime] = configs.HookList{configs.NewFunctionHook(func(s *specs.State) (err error) {
		h.c.slot.without(func() { err = h.create(s.Pid) })
		return err
	})}
}

// create runs the hooks of a creation.
func (h *nodeHooks) create(pid int) error {
	for _, stage := range []hookrun.Stage{hookrun.Prestart, hookrun.CreateRuntime, hookrun.CreateContainer} {
		if err := h.run(stage, specs.StateCreating, pid); err != nil {
			h.mu.Lock()
			h.failed = err
			h.mu.Unlock()
			return err
		}
	}
	return nil
}

// own gives the error of the hook that ended the creation, without what libcontainer has to say of it.
func (h *nodeHooks) own(err error) error {
	if h == nil || err == nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.failed != nil {
		return h.failed
	}
	return err
}

// extra is what creating the container may take longer than without hooks.
func (h *nodeHooks) extra() time.Duration {
	if h == nil {
		return 0
	}
	return hookrun.NodeStartLimit + killLimit
}

// run runs the hooks of one stage of the start in order; the first that fails ends it.
func (h *nodeHooks) run(stage hookrun.Stage, status specs.ContainerState, pid int) error {
	if h == nil {
		return nil
	}
	for _, r := range h.stage(stage, status, pid) {
		if r.Outcome != hookrun.Succeeded {
			return fmt.Errorf("the node's %s: %w", r, errdefs.ErrAborted)
		}
	}
	return nil
}

// stage runs the hooks of a stage and gives the results. A failure ends it, but for poststop.
func (h *nodeHooks) stage(stage hookrun.Stage, status specs.ContainerState, pid int) (results []hookrun.Result) {
	state := specs.State{Version: specs.Version, ID: h.c.id, Status: status, Pid: pid, Bundle: h.c.bundle, Annotations: h.plan.Annotations}
	for i, hook := range *hookrun.StageOf(&h.hooks, stage) {
		r := h.one(stage, hook, state)
		r.Stage, r.Name = stage, h.name(stage, i, hook)
		h.note(r)
		results = append(results, r)
		if r.Outcome != hookrun.Succeeded && stage != hookrun.Poststop {
			return results
		}
	}
	return results
}

// one runs a hook with what is left of the time for all, and of its start.
func (h *nodeHooks) one(stage hookrun.Stage, hook specs.Hook, state specs.State) (r hookrun.Result) {
	limit := h.left
	if stage != hookrun.Poststop {
		limit = min(limit, time.Until(h.c.startBy))
	}
	if hook.Timeout != nil {
		limit = min(limit, time.Duration(min(*hook.Timeout, int(limit/time.Second)+1))*time.Second)
	}
	if limit <= 0 {
		return hookrun.Result{Outcome: hookrun.Skipped, StartedAt: time.Now(), Message: "the hooks before it have used up the time that all have together"}
	}
	switch stage {
	case hookrun.StartContainer:
		r = h.runInside(hook, state, limit)
	case hookrun.CreateContainer:
		r = h.runEntered(hook, state, limit)
	case hookrun.Prestart, hookrun.CreateRuntime: // a creation can be cancelled
		r = runOnHost(h.c.alive, hook, state, limit)
	default:
		r = runOnHost(context.Background(), hook, state, limit)
	}
	h.left -= r.Duration
	return r
}

// poststop runs the hooks for the end of the container, once; what fails is told and changes nothing.
func (h *nodeHooks) poststop() {
	if h == nil {
		return
	}
	h.stop.Do(func() {
		h.left = hookrun.NodeStopLimit
		for _, r := range h.stage(hookrun.Poststop, specs.StateStopped, 0) {
			if r.Outcome != hookrun.Succeeded {
				h.c.log.Warnf("the node's %s", r)
			}
		}
	})
}

// note keeps a result for the daemon.
func (h *nodeHooks) note(r hookrun.Result) {
	h.results = append(h.results, r)
	if err := hookrun.WriteNodeResults(h.c.bundle, h.results); err != nil && !errors.Is(err, fs.ErrNotExist) {
		h.c.log.WithError(err).Warn("results of the node's hooks")
	}
}

// name is that of the file which declares a hook, and the hook's path.
func (h *nodeHooks) name(stage hookrun.Stage, i int, hook specs.Hook) string {
	if files := h.plan.Files[stage]; i < len(files) {
		return files[i] + " (" + hook.Path + ")"
	}
	return hook.Path
}
