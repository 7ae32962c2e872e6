package cri

import (
	"maps"
	"slices"
	"strings"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/cri/model"
)

// resources converts LinuxContainerResources; nil stays nil. checkResources says whether the values make sense.
func resources(r *runtime.LinuxContainerResources) *model.Resources {
	if r == nil {
		return nil
	}
	out := &model.Resources{
		CPUPeriod: r.GetCpuPeriod(), CPUQuota: r.GetCpuQuota(), CPUShares: r.GetCpuShares(),
		MemoryLimit: r.GetMemoryLimitInBytes(), MemorySwap: r.GetMemorySwapLimitInBytes(),
		OOMScoreAdj: r.GetOomScoreAdj(), CpusetCpus: r.GetCpusetCpus(), CpusetMems: r.GetCpusetMems(),
		Unified: maps.Clone(r.GetUnified()),
	}
	for _, h := range r.GetHugepageLimits() {
		if out.HugepageLimits == nil {
			out.HugepageLimits = map[string]uint64{}
		}
		out.HugepageLimits[h.GetPageSize()] = h.GetLimit()
	}
	return out
}

// checkResources refuses values that no kernel takes, each by itself or together. Negative quota, memory and swap mean "no
// limit".
func checkResources(field string, r *model.Resources) error {
	if r == nil {
		return nil
	}
	if err := checkEachResource(field, r); err != nil {
		return err
	}
	switch {
	case r.MemorySwap > 0 && r.MemoryLimit <= 0:
		return invalid(field+".memory_swap_limit_in_bytes", "%d needs a memory limit, which it includes", r.MemorySwap)
	case r.MemorySwap > 0 && r.MemoryLimit > r.MemorySwap:
		return invalid(field+".memory_swap_limit_in_bytes", "%d is less than the memory limit %d, which it includes", r.MemorySwap, r.MemoryLimit)
	}
	return nil
}

// checkEachResource is checkResources for an update, whose values have to fit others that it does not name.
func checkEachResource(field string, r *model.Resources) error {
	switch {
	case r.CPUPeriod < 0 || r.CPUPeriod > 0 && (r.CPUPeriod < 1000 || r.CPUPeriod > 1000000):
		return invalid(field+".cpu_period", "%d µs is not between 1000 and 1000000", r.CPUPeriod)
	case r.CPUQuota < -1 || r.CPUQuota > 0 && r.CPUQuota < 1000:
		return invalid(field+".cpu_quota", "%d µs is neither -1 nor at least 1000", r.CPUQuota)
	case r.CPUShares < 0:
		return invalid(field+".cpu_shares", "%d is negative", r.CPUShares)
	case r.MemoryLimit < -1:
		return invalid(field+".memory_limit_in_bytes", "%d is negative", r.MemoryLimit)
	case r.MemorySwap < -1:
		return invalid(field+".memory_swap_limit_in_bytes", "%d is negative", r.MemorySwap)
	case r.OOMScoreAdj < -1000 || r.OOMScoreAdj > 1000:
		return invalid(field+".oom_score_adj", "%d is not between -1000 and 1000", r.OOMScoreAdj)
	}
	for name, list := range map[string]string{".cpuset_cpus": r.CpusetCpus, ".cpuset_mems": r.CpusetMems} {
		if len(list) > maxPath || strings.Trim(list, "0123456789,-") != "" {
			return invalid(field+name, "%q is not a list such as 0-3,7", list)
		}
	}
	for size := range r.HugepageLimits {
		unit := strings.TrimLeft(size, "0123456789")
		if len(unit) == len(size) || !slices.Contains([]string{"KB", "MB", "GB"}, unit) {
			return invalid(field+".hugepage_limits", "page size %q is not one such as 2MB", size)
		}
	}
	return checkUnified(field+".unified", r.Unified)
}

// checkUnified accepts settings whose key is a plain file of a cgroup ("memory.high"): a path would lead out of the
// container's cgroup, a newline in a value into another setting.
func checkUnified(field string, m map[string]string) error {
	if err := checkCount(field, len(m)); err != nil {
		return err
	}
	for k, v := range m {
		controller, _, ok := strings.Cut(k, ".")
		if !ok || controller == "" || controller == "cgroup" || len(k) > maxName || strings.ContainsFunc(k, func(r rune) bool {
			return r > 0x7e || !alphanumeric(byte(r)) && !strings.ContainsRune("._-", r)
		}) {
			return invalid(field, "%q is not a setting such as memory.high", k)
		}
		if err := checkText(field+"["+k+"]", v, maxPath); err != nil {
			return err
		}
	}
	return nil
}

// resourcesToCRI converts back, for statuses; nil stays nil.
func resourcesToCRI(r *model.Resources) *runtime.LinuxContainerResources {
	if r == nil {
		return nil
	}
	out := &runtime.LinuxContainerResources{
		CpuPeriod: r.CPUPeriod, CpuQuota: r.CPUQuota, CpuShares: r.CPUShares,
		MemoryLimitInBytes: r.MemoryLimit, MemorySwapLimitInBytes: r.MemorySwap,
		OomScoreAdj: r.OOMScoreAdj, CpusetCpus: r.CpusetCpus, CpusetMems: r.CpusetMems, Unified: maps.Clone(r.Unified),
	}
	for _, size := range slices.Sorted(maps.Keys(r.HugepageLimits)) {
		out.HugepageLimits = append(out.HugepageLimits, &runtime.HugepageLimit{PageSize: size, Limit: r.HugepageLimits[size]})
	}
	return out
}
