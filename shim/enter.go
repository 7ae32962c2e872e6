package shim

import (
	"fmt"
	"reflect"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
)

// enter starts a further process in the container. Its init is kept meanwhile: libcontainer finds the namespaces by the init's
// pid, and by that of another process would enter that one's.
func (c *container) enter(lp *libcontainer.Process) error {
	release, err := c.init.keep()
	if err != nil {
		return err
	}
	defer release()
	lc := c.lc
	if cgroups.IsCgroup2UnifiedMode() {
		if lc, err = libcontainer.Load(c.s.dir.Libcontainer(), c.id); err == nil {
			err = joinLate(lc)
		}
		if err != nil {
			return c.blame(err)
		}
	}
	return c.blame(lc.Start(lp))
}

// lateJoiner is a cgroup manager that has no path to be born in.
type lateJoiner struct{ cgroups.Manager }

func (lateJoiner) Path(string) string { return "" }

// joinLate lets processes that a container object starts join their cgroup when they run, by a write, and not be born in it
// (CLONE_INTO_CGROUP). Go forks as vfork does, and nothing of this program runs while such a child waits for its first
// instruction: in a cgroup that root inside has frozen it waits for ever, and in one with little CPU time for seconds. That
// would be the end, or a pause, for all containers of the node. libcontainer has no switch for it.
func joinLate(lc *libcontainer.Container) error {
	field := reflect.ValueOf(lc).Elem().FieldByName("cgroupManager")
	if !field.IsValid() || field.Type() != reflect.TypeFor[cgroups.Manager]() {
		return fmt.Errorf("this libcontainer keeps no cgroup manager where it is looked for: %w", errdefs.ErrNotImplemented)
	}
	manager := (*cgroups.Manager)(field.Addr().UnsafePointer())
	*manager = lateJoiner{*manager}
	return nil
}
