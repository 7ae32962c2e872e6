package cri

import (
	"maps"
	"math"

	"github.com/cri-pouch/cri-pouch/cri/model"
)

// mergeResources lays the set fields of want over those of have. Neither is changed.
func mergeResources(have, want *model.Resources) *model.Resources {
	if have == nil {
		return want
	}
	out := *have
	out.MemorySwap = mergeMemorySwap(have, want)
	for _, f := range []struct {
		to   *int64
		from int64
	}{
		{&out.CPUPeriod, want.CPUPeriod}, {&out.CPUQuota, want.CPUQuota}, {&out.CPUShares, want.CPUShares},
		{&out.MemoryLimit, want.MemoryLimit}, {&out.OOMScoreAdj, want.OOMScoreAdj},
	} {
		if f.from != 0 {
			*f.to = f.from
		}
	}
	if want.CpusetCpus != "" {
		out.CpusetCpus = want.CpusetCpus
	}
	if want.CpusetMems != "" {
		out.CpusetMems = want.CpusetMems
	}
	out.HugepageLimits = mergeMaps(have.HugepageLimits, want.HugepageLimits)
	out.Unified = mergeMaps(have.Unified, want.Unified)
	return &out
}

// mergeMemorySwap returns the limit of memory and swap together. It moves along with a limit of memory that comes alone:
// what may be swapped stays as it is. Left behind, it would refuse a higher limit, and give swap to a container that had none
// when the limit goes down.
func mergeMemorySwap(have, want *model.Resources) int64 {
	switch {
	case want.MemorySwap != 0:
		return want.MemorySwap
	case want.MemoryLimit == 0 || have.MemorySwap <= 0: // there is no new limit, or swap is not limited by itself
		return have.MemorySwap
	case want.MemoryLimit < 0:
		return -1
	}
	swap := have.MemorySwap - have.MemoryLimit
	if swap > math.MaxInt64-want.MemoryLimit {
		return math.MaxInt64
	}
	return want.MemoryLimit + swap
}

func mergeMaps[V any](have, want map[string]V) map[string]V {
	if len(want) == 0 {
		return have
	}
	out := maps.Clone(want)
	for k, v := range have {
		if _, ok := want[k]; !ok {
			out[k] = v
		}
	}
	return out
}
