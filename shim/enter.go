package shim

import (
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"

	"github.com/cri-pouch/cri-pouch/internal/crash"
)

// enter starts a further process in the container. The caller keeps its init meanwhile: libcontainer finds the namespaces by the
// init's pid, and by that of another process would enter that one's. It must be called with op held.
func (c *container) enter(lp *libcontainer.Process) error {
	lc, err := c.object()
	if err != nil {
		return err
	}
	if cgroups.IsCgroup2UnifiedMode() {
		if lc, err = libcontainer.Load(c.s.dir.Libcontainer(), c.id); err == nil {
			err = joinLate(lc)
		}
		if err != nil {
			return c.blame(err)
		}
	}
	return c.blame(startFurther(c.s.dir.Mounts(), lc, lp))
}

// object returns libcontainer's object of the container. It must be called with op held.
func (c *container) object() (*libcontainer.Container, error) {
	if !c.lcLocked {
		return c.lc, nil
	}
	lc, err := libcontainer.Load(c.s.dir.Libcontainer(), c.id)
	if err != nil {
		return nil, fmt.Errorf("load container %s anew: %w", c.id, err)
	}
	c.lc, c.lcLocked = lc, false
	return lc, nil
}

// abandon lets go of a launch that does not come back, until it does: libcontainer's object stays locked by it. It must be
// called with op held; a launch that is over is left alone.
func (c *container) abandon(after <-chan struct{}) {
	if isOver(after) {
		return
	}
	c.lcLocked = true
	c.stuck.Add(1)
	crash.Go(c.log, "wait for a launch that hangs", func() {
		<-after
		c.stuck.Add(-1)
	})
}

// maxStuck bounds the launches into a container that were given up and hang in the kernel, with a thread each.
const maxStuck = 4

// demandFewStuck gives an error when launches into the container do not come back.
func (c *container) demandFewStuck(what string) error {
	if n := c.stuck.Load(); n >= maxStuck {
		return fmt.Errorf("cannot %s container %s: %d processes that were made in it hang in the kernel, end it first: %w", what, c.id, n, errdefs.ErrUnavailable)
	}
	return nil
}

// lateJoiner is a cgroup manager that has no path to be born in.
type lateJoiner struct{ cgroups.Manager }

func (lateJoiner) Path(string) string { return "" }

// joinLate lets processes that a container object starts join their cgroup when they run, by a write, and not be born in it
// (CLONE_INTO_CGROUP). Go forks as vfork does, and nothing of this program runs while such a child waits for its first
// instruction: in a cgroup that root inside has frozen it waits for ever, and in one with little CPU time for seconds. That
// would be the end, or a pause, for all containers of the node. libcontainer has no switch for it.
func joinLate(lc *libcontainer.Container) error {
	manager, err := managerOf(lc)
	if err != nil {
		return err
	}
	*manager = lateJoiner{*manager}
	return nil
}
