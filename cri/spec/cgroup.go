package spec

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-pouch/cri-pouch/cri/model"
)

// Where containers live whose pod has no cgroup parent.
const (
	defaultParent = "/cri-pouch"
	defaultSlice  = "cri-pouch.slice"
	scopePrefix   = "cri-pouch"
)

// cgroup sets the cgroup's path and limits.
func (b *Builder) cgroup(in Input, sp *specs.Spec) (err error) {
	if r := in.Config.Resources; r != nil && len(r.Unified) > 0 && !b.node.CgroupV2 {
		return fmt.Errorf("resources.unified needs cgroup v2, the node has v1: %w", errdefs.ErrFailedPrecondition)
	}
	sp.Linux.Resources = b.Resources(sp.Linux.Resources, in.Config.Resources)
	sp.Linux.CgroupsPath, err = b.cgroupsPath(in.Sandbox.CgroupParent, in.ID)
	return err
}

// cgroupsPath gives the path in the form of the node's driver: "<parent>/<id>", or for systemd "<slice>:<prefix>:<id>". CRI's
// parent is always in the first form; a slice's last element names it.
func (b *Builder) cgroupsPath(parent, id string) (string, error) {
	if !b.node.SystemdCgroup {
		if parent == "" {
			parent = defaultParent
		}
		return path.Join("/", parent, id), nil
	}
	if parent == "" {
		return defaultSlice + ":" + scopePrefix + ":" + id, nil
	}
	slice := path.Base(parent)
	if !strings.HasSuffix(slice, ".slice") || strings.Contains(slice, ":") {
		return "", fmt.Errorf("cgroup parent %q is no systemd slice, though the node's cgroup driver is systemd: use the same driver for kubelet and runtime: %w",
			parent, errdefs.ErrInvalidArgument)
	}
	return slice + ":" + scopePrefix + ":" + id, nil
}

// CgroupOwner gives the ID of the container whose cgroup, or whose poststop hooks' cgroup, has this name, with either driver.
func CgroupOwner(name string) string {
	return strings.TrimSuffix(strings.TrimSuffix(strings.TrimPrefix(name, scopePrefix+"-"), ".scope"), poststopSuffix)
}

// Resources gives have with the limits of want set and everything else (device rules among it) as it was. Where the node
// cannot limit swap or huge pages these are left out. Neither argument is changed; both may be nil.
func (b *Builder) Resources(have *specs.LinuxResources, want *model.Resources) *specs.LinuxResources {
	out := &specs.LinuxResources{}
	if have != nil {
		*out = *have
	}
	if want == nil {
		return out
	}
	out.CPU, out.Memory = cpu(want), b.memory(want)
	out.HugepageLimits = nil
	if b.node.HugeTLB {
		for _, size := range slices.Sorted(maps.Keys(want.HugepageLimits)) {
			out.HugepageLimits = append(out.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: size, Limit: want.HugepageLimits[size]})
		}
	}
	out.Unified = maps.Clone(want.Unified)
	return out
}

func cpu(r *model.Resources) *specs.LinuxCPU {
	c := &specs.LinuxCPU{Cpus: r.CpusetCpus, Mems: r.CpusetMems}
	if r.CPUShares != 0 {
		n := uint64(r.CPUShares)
		c.Shares = &n
	}
	if r.CPUQuota != 0 {
		n := r.CPUQuota
		c.Quota = &n
	}
	if r.CPUPeriod != 0 {
		n := uint64(r.CPUPeriod)
		c.Period = &n
	}
	if *c == (specs.LinuxCPU{}) {
		return nil
	}
	return c
}

// memory sets limit and swap. A container with a limit of memory alone gets no swap: it would else hold as much again.
func (b *Builder) memory(r *model.Resources) *specs.LinuxMemory {
	if r.MemoryLimit == 0 {
		return nil // swap is counted together with memory: there is none to count it with
	}
	limit, swap := r.MemoryLimit, r.MemorySwap
	m := &specs.LinuxMemory{Limit: &limit}
	if b.node.SwapLimit {
		if swap == 0 {
			swap = limit
		}
		m.Swap = &swap
	}
	return m
}
