package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/shim/task"
)

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
	if err = lowerHighFirst(c.tree[""], lc.Config().Cgroups.Resources, &limits); err == nil {
		err = lc.Set(config) // on an error it puts the former limits back
	}
	err = c.blame(refuse(err))
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

// refuse gives an error of the kernel its class where it does not take the values themselves: a quota beyond the parent's
// (EINVAL), a number that is none (ERANGE), memory and swap below what is in use (EBUSY). For memory alone libcontainer has a
// text of its own in EBUSY's place.
func refuse(err error) error {
	if err == nil {
		return nil
	}
	known := strings.HasPrefix(err.Error(), "unable to set memory limit")
	for _, cause := range []error{unix.EINVAL, unix.ERANGE, unix.EBUSY} {
		known = known || errors.Is(err, cause)
	}
	if !known {
		return err
	}
	return fmt.Errorf("the kernel does not take these limits, the former ones stay: %w (%w)", err, errdefs.ErrInvalidArgument)
}

// highFile is where processes are slowed down and their memory is reclaimed, before memory.max kills (cgroup v2).
const highFile = "memory.high"

// lowerHighFirst sets memory.high before memory.max goes down: what is above both is reclaimed while the processes wait. In
// libcontainer's order the OOM killer would come first. Upwards its order is the right one. folder is that of cgroup v2;
// empty: there is none.
func lowerHighFirst(folder string, now, want *cgroups.Resources) error {
	high, ok := want.Unified[highFile]
	if folder == "" || !ok || !lower(now.Memory, want.Memory) {
		return nil
	}
	if err := os.WriteFile(filepath.Join(folder, highFile), []byte(high), 0); err != nil {
		return fmt.Errorf("set %s: %w", highFile, err)
	}
	return nil
}

// lower reports whether a limit of memory goes down; neither 0 nor -1 is a limit.
func lower(now, want int64) bool { return want > 0 && (now <= 0 || want < now) }
