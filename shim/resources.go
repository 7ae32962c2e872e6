package shim

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-pouch/cri-pouch/shim/task"
)

// pause freezes all processes of the container.
func (c *container) pause(ctx context.Context) error {
	release, err := c.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := c.demand("pause", task.Running); err != nil {
		return err
	}
	if err := c.demandNoHooks("pause"); err != nil {
		return err
	}
	lc, err := c.object()
	if err == nil {
		err = c.blame(lc.Pause())
	}
	if err != nil {
		return fmt.Errorf("pause container %s: %w", c.id, err)
	}
	c.change(task.Running, task.Paused)
	return nil
}

// resume thaws them.
func (c *container) resume(ctx context.Context) error {
	release, err := c.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := c.demand("resume", task.Paused); err != nil {
		return err
	}
	lc, err := c.object()
	if err == nil {
		err = c.blame(lc.Resume())
	}
	if err != nil {
		return fmt.Errorf("resume container %s: %w", c.id, err)
	}
	c.change(task.Paused, task.Running)
	return nil
}

// change sets the state, unless the container has ended meanwhile.
func (c *container) change(from, to task.Status) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.status == from {
		c.status = to
	}
}

// update changes limits; what the JSON of OCI's LinuxResources leaves out stays as it is.
func (c *container) update(ctx context.Context, resources []byte) error {
	var r specs.LinuxResources
	if err := json.Unmarshal(resources, &r); err != nil {
		return fmt.Errorf("update container %s: resources: %w (%w)", c.id, err, errdefs.ErrInvalidArgument)
	}
	release, err := c.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := c.demand("update", task.Created, task.Running, task.Paused); err != nil {
		return err
	}
	if c.outer != nil {
		return c.blame(c.outer.update(c.id, &r))
	}
	lc, err := c.object()
	if err != nil {
		return fmt.Errorf("update container %s: %w", c.id, err)
	}
	config := lc.Config()
	cgroup, limits := *config.Cgroups, *config.Cgroups.Resources
	config.Cgroups = &cgroup
	cgroup.Resources = &limits
	merge(&limits, &r)
	// Device rules are not part of it, and setting them again costs a new BPF program on cgroup v2.
	limits.SkipDevices = true
	err = c.blame(lc.Set(config))
	limits.SkipDevices = false // libcontainer keeps this object and starts nothing while it is set
	if err != nil {
		return fmt.Errorf("update container %s: %w", c.id, err)
	}
	return nil
}

// merge puts what is given into the limits.
func merge(to *cgroups.Resources, r *specs.LinuxResources) {
	if m := r.Memory; m != nil {
		set(&to.Memory, m.Limit)
		set(&to.MemoryReservation, m.Reservation)
		set(&to.MemorySwap, m.Swap)
	}
	if p := r.CPU; p != nil {
		set(&to.CpuQuota, p.Quota)
		set(&to.CpuPeriod, p.Period)
		set(&to.CpuRtPeriod, p.RealtimePeriod)
		set(&to.CpuRtRuntime, p.RealtimeRuntime)
		if p.Shares != nil {
			to.CpuShares = *p.Shares
			to.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(*p.Shares)
		}
		if p.Burst != nil {
			to.CpuBurst = p.Burst
		}
		if p.Idle != nil {
			to.CPUIdle = p.Idle
		}
		if p.Cpus != "" {
			to.CpusetCpus = p.Cpus
		}
		if p.Mems != "" {
			to.CpusetMems = p.Mems
		}
	}
	if r.Pids != nil && r.Pids.Limit != nil {
		to.PidsLimit = r.Pids.Limit
	}
	if r.BlockIO != nil {
		set(&to.BlkioWeight, r.BlockIO.Weight)
	}
	for _, h := range r.HugepageLimits {
		to.HugetlbLimit = slices.DeleteFunc(slices.Clone(to.HugetlbLimit), func(l *cgroups.HugepageLimit) bool { return l.Pagesize == h.Pagesize })
		to.HugetlbLimit = append(to.HugetlbLimit, &cgroups.HugepageLimit{Pagesize: h.Pagesize, Limit: h.Limit})
	}
	if len(r.Unified) > 0 {
		unified := maps.Clone(to.Unified)
		if unified == nil {
			unified = map[string]string{}
		}
		maps.Copy(unified, r.Unified)
		to.Unified = unified
	}
}

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}
