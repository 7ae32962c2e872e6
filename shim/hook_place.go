package shim

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-pouch/cri-pouch/internal/cgrouptree"
	"github.com/cri-pouch/cri-pouch/internal/hookrun"
	"github.com/cri-pouch/cri-pouch/internal/shimstate"
)

// hookCgroup is the name of the cgroup that a prestart hook gets below its container's.
const hookCgroup = "hook"

// poststopSuffix makes the ID of the container that a poststop hook runs in.
const poststopSuffix = ".poststop"

// prestartPlace is a created container: the hook is a further process of it, in a cgroup below its init's. There the
// container's limits hold. On cgroup v2 neither hands a controller down, so that both may have processes.
type prestartPlace struct {
	c    *container
	base cgrouptree.Tree // of the container's processes
	sub  cgrouptree.Tree
	// alone says that nothing else ran in the container before: a node's hook or an exec may have left what is to stay.
	alone bool
}

func newPrestartPlace(c *container) *prestartPlace {
	base := c.processes()
	return &prestartPlace{c: c, base: base, sub: base.Sub(hookCgroup)}
}

// processes is the cgroup that the container's processes begin in.
func (c *container) processes() cgrouptree.Tree {
	if c.outer != nil {
		return c.tree.Sub(innerCgroup) // libcontainer knows no other
	}
	return c.tree
}

func (p *prestartPlace) tree() cgrouptree.Tree { return p.sub }

func (p *prestartPlace) oomKills() uint64 { return p.c.tree.OOMKills() }

// enter is as for an exec: whatever changes the container waits for the launch, but not for the hook.
func (p *prestartPlace) enter(ctx context.Context) (leave func(after <-chan struct{}), err error) {
	release, err := p.c.take(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			release()
		}
	}()
	drop, err := p.c.init.keep()
	if err != nil {
		return nil, err
	}
	slot, err := p.c.s.slots.acquire(ctx, p.c.pod)
	if err == nil && ctx.Err() != nil {
		slot.release(over())
		err = ctx.Err()
	}
	if err != nil {
		drop()
		return nil, err
	}
	return func(after <-chan struct{}) {
		slot.release(after)
		p.c.abandon(after)
		drop()
		release()
	}, nil
}

func (p *prestartPlace) alive() context.Context { return p.c.alive }

func (p *prestartPlace) launch(_ *launch, lp *libcontainer.Process) (*process, error) {
	there, err := p.c.tree.Pids()
	if err != nil {
		return nil, err
	}
	p.alone = len(there) == 1
	if err := p.sub.Make(); err != nil {
		return nil, err
	}
	lp.SubCgroupPaths = map[string]string{"": hookCgroup}
	if _, v2 := p.base[""]; p.c.options.GetSystemdCgroup() && !(v2 && len(p.base) == 1) {
		// On cgroup v1 systemd would be asked to move the process; each hierarchy by its name is written to directly.
		lp.SubCgroupPaths = map[string]string{}
		for controller := range p.sub {
			if controller != "" {
				lp.SubCgroupPaths[controller] = hookCgroup
			}
		}
	}
	if err := p.c.enter(lp); err != nil {
		p.c.reap(lp)
		return nil, err
	}
	made, err := adopt(lp, nil)
	if err != nil {
		p.c.reap(lp)
	}
	return made, err
}

func (p *prestartPlace) begin() error { return nil }

// clean also ends what a hook has moved to another cgroup of the container, where that lets it.
func (p *prestartPlace) clean() error {
	ctx, cancel := context.WithTimeout(context.Background(), killLimit)
	defer cancel()
	err := p.sub.Kill(ctx)
	if p.alone {
		err = errors.Join(err, p.c.tree.KillBut(ctx, p.c.init.pid))
	}
	return errors.Join(err, p.sub.Remove(ctx))
}

// poststopPlace is a container of its own, whose init is the hook's launcher. It is in no list; its record on tmpfs lets
// whoever finds a dead shim end it.
type poststopPlace struct {
	c      *container
	config *configs.Config
	err    error // it cannot be made
}

func newPoststopPlace(of *container, spec specs.Spec, hook hookrun.Hook) *poststopPlace {
	p := &poststopPlace{c: newContainer(of.s, of.id+poststopSuffix, of.bundle)}
	p.c.options, p.c.ofHook, p.c.pod = of.options, true, of.pod
	spec.Process = hook.Process
	p.config, p.err = p.c.config(&spec)
	return p
}

func (p *poststopPlace) tree() cgrouptree.Tree { return p.c.tree }

func (p *poststopPlace) oomKills() uint64 { return p.c.tree.OOMKills() }

// enter does not use the slots that creations in the pod have: those that hang keep them, and the end of a container must not wait
// for the creation of another.
func (p *poststopPlace) enter(ctx context.Context) (leave func(after <-chan struct{}), err error) {
	slot, err := p.c.s.slots.acquire(ctx, p.c.pod+" ends")
	if err != nil {
		return nil, err
	}
	return slot.release, nil
}

func (p *poststopPlace) alive() context.Context { return p.c.life }

func (p *poststopPlace) launch(l *launch, lp *libcontainer.Process) (_ *process, err error) {
	if p.err == nil {
		p.err = p.c.prepare()
	}
	if p.err != nil {
		return nil, p.err
	}
	defer func() {
		if err != nil {
			p.c.reap(lp)
		}
	}()
	lp.Init = true
	if p.c.lc, err = p.c.createObject(l, p.config); err != nil {
		return nil, err
	}
	if err := p.c.startInit(l, p.config, lp); err != nil {
		return nil, err
	}
	made, err := adopt(lp, nil)
	if err != nil {
		return nil, err
	}
	p.c.init = made // by itself: nobody lists it
	record := shimstate.Record{ID: p.c.id, CgroupPaths: p.c.tree, Pid: made.pid, StartTime: made.startTime, Hook: true}
	if err := p.c.s.dir.Write(record); err != nil {
		_ = made.fd.Close()
		return nil, err
	}
	return made, nil
}

func (p *poststopPlace) begin() error { return p.c.release() }

func (p *poststopPlace) clean() error {
	if p.err != nil {
		return nil
	}
	err := p.c.dismantle()
	if p.c.init == nil {
		p.c.lc = nil
		runtime.GC() // as for a container whose creation failed
	}
	if err != nil {
		return fmt.Errorf("remove container %s: %w (%w)", p.c.id, err, errdefs.ErrInternal)
	}
	return nil
}
