package shim

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// innerCgroup is the name of the cgroup that an init gets for itself, below the one that has the limits.
const innerCgroup = "inner"

// outerCgroup is the one with the limits, where the container's processes live in another below it.
type outerCgroup struct {
	manager cgroups.Manager
	config  *cgroups.Cgroup
}

// update changes limits; what r leaves out stays as it is. Device rules are not part of it.
func (o *outerCgroup) update(id string, r *specs.LinuxResources) error {
	limits := *o.config.Resources
	merge(&limits, r)
	limits.SkipDevices = true
	err := lowerHighFirst(o.manager.Path(""), o.config.Resources, &limits)
	if err == nil {
		err = o.manager.Set(&limits)
	}
	if err != nil {
		former := *o.config.Resources
		former.SkipDevices = true
		return fmt.Errorf("update container %s: %w", id, errors.Join(refuse(err), o.manager.Set(&former)))
	}
	limits.SkipDevices = false
	o.config.Resources = &limits
	return nil
}

// remove takes the cgroup away, with what is below it. It is empty.
func (o *outerCgroup) remove() error {
	if o == nil {
		return nil
	}
	return o.manager.Destroy()
}

// delegates says whether pid 1 manages cgroups of its own.
func (c *container) delegates() bool { return c.rich != nil && c.rich.plan.Delegate }

// delegate makes the cgroup that an init is to manage on cgroup v2, below the one with the limits: root of the container could
// lift those of the cgroup that it sees as the root. The kernel's own protection (nsdelegate, cgroups(7)) does not do: the next
// cgroup namespace inside of the container's is not held by it. The stand-in, if there is one, has to stay until the
// container is in its cgroup.
func (c *container) delegate(config *configs.Config) (s *standIn, err error) {
	if !c.delegates() || len(c.tree) != 1 {
		return nil, nil
	}
	if c.options.GetSystemdCgroup() {
		if s, err = startStandIn(); err != nil {
			return nil, err
		}
	}
	inner, err := c.makeOuter(config, s)
	if err == nil {
		err = c.hand(inner)
	}
	if err != nil {
		s.end()
		return nil, err
	}
	return s, nil
}

// handOver gives the init its cgroups of the hierarchies without controllers, on cgroup v1 and beside it. pid 1 does not run yet.
func (c *container) handOver() error {
	if !c.delegates() || len(c.tree) == 1 {
		return nil
	}
	for _, hierarchy := range []string{"", "name=systemd"} {
		folder := c.tree[hierarchy]
		if folder == "" {
			continue
		}
		if hierarchy == "" { // v1 has no such bounds
			if err := bound(folder); err != nil {
				return err
			}
		}
		if err := c.hand(folder); err != nil {
			return err
		}
	}
	return nil
}

// makeOuter gives the limits to the outer cgroup, leads the container into an inner one and gives that one's folder.
func (c *container) makeOuter(config *configs.Config, s *standIn) (string, error) {
	limited := *config.Cgroups
	limited.OwnerUID = nil // the inner one is the container's
	outer, err := manager.New(&limited)
	if err != nil {
		return "", fmt.Errorf("cgroup: %w", err)
	}
	c.outer = &outerCgroup{outer, &limited}
	if err := outer.Apply(s.pid()); err != nil {
		return "", fmt.Errorf("make cgroup: %w", err)
	}
	if err := s.stepAside(outer.Path("")); err != nil {
		return "", err
	}
	if err := bound(outer.Path("")); err != nil {
		return "", err
	}
	inner, m, err := innerOf(outer, config)
	if err == nil {
		err = m.Apply(-1)
	}
	if err == nil {
		err = outer.Set(limited.Resources)
	}
	if err != nil {
		return "", fmt.Errorf("make inner cgroup: %w", err)
	}
	config.Cgroups = inner
	return m.Path(""), nil
}

// Bounds of the cgroups that an init may make. systemd has one for each unit.
const (
	maxDescendants = 4096
	maxDepth       = 32
)

// bound keeps what an init makes small enough for those who look through it: the OOM watch, stats, the end.
func bound(folder string) error {
	for file, value := range map[string]int{"cgroup.max.descendants": maxDescendants, "cgroup.max.depth": maxDepth} {
		if err := os.WriteFile(filepath.Join(folder, file), []byte(strconv.Itoa(value)), 0); err != nil {
			return fmt.Errorf("bound cgroup: %w", err)
		}
	}
	return nil
}

// innerOf describes the cgroup below an outer one; systemd knows nothing of it.
func innerOf(outer cgroups.Manager, config *configs.Config) (*cgroups.Cgroup, cgroups.Manager, error) {
	inner := *config.Cgroups
	inner.Systemd, inner.Name, inner.Parent, inner.ScopePrefix = false, "", "", ""
	inner.Path = filepath.Join(outer.Path(""), innerCgroup)
	if relative, err := filepath.Rel(cgroupRoot, inner.Path); err == nil {
		inner.Path = "/" + relative
	}
	// The outer cgroup's device rules hold below it. libcontainer starts nothing without rules, so it gets the same again.
	inner.Resources = &cgroups.Resources{Devices: config.Cgroups.Resources.Devices}
	m, err := manager.New(&inner)
	return &inner, m, err
}

// cgroupRoot is where libcontainer looks for cgroup v2; its paths count from there.
const cgroupRoot = "/sys/fs/cgroup"

// hand gives a cgroup to the container's root, with the files that a delegation comprises (cgroups(7)).
func (c *container) hand(folder string) error {
	if c.rich.plan.OwnerUID == 0 && c.rich.plan.OwnerGID == 0 {
		return nil
	}
	for _, name := range []string{"", "cgroup.procs", "tasks", "cgroup.threads", "cgroup.subtree_control"} {
		err := os.Lchown(filepath.Join(folder, name), c.rich.plan.OwnerUID, c.rich.plan.OwnerGID)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("delegate cgroup: %w", err)
		}
	}
	return nil
}
