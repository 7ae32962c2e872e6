package cri

import (
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/shim/task"
)

func cpuUsage(st task.Stats, rate *uint64) *runtime.CpuUsage {
	u := &runtime.CpuUsage{Timestamp: st.Time.UnixNano(), UsageCoreNanoSeconds: number(st.CPUUsage), Psi: psi(st.CPUPSI)}
	if rate != nil {
		u.UsageNanoCores = number(*rate)
	}
	return u
}

func memoryUsage(st task.Stats) *runtime.MemoryUsage {
	return &runtime.MemoryUsage{
		Timestamp: st.Time.UnixNano(), WorkingSetBytes: number(st.MemoryWorkingSet), UsageBytes: number(st.MemoryUsage), RssBytes: number(st.MemoryRSS),
		PageFaults: number(st.PageFaults), MajorPageFaults: number(st.MajorPageFaults),
		AvailableBytes: available(st.MemoryLimit, st.MemoryWorkingSet), Psi: psi(st.MemoryPSI),
	}
}

func ioUsage(st task.Stats) *runtime.IoUsage {
	return &runtime.IoUsage{Timestamp: st.Time.UnixNano(), Psi: psi(st.IOPSI)}
}

func number(v uint64) *runtime.UInt64Value { return &runtime.UInt64Value{Value: v} }

// available is nil without a limit: nobody knows how much there is then, and 0 would say that there is none.
func available(limit, used uint64) *runtime.UInt64Value {
	switch {
	case limit == 0:
		return nil
	case limit > used:
		return number(limit - used)
	}
	return number(0)
}

// psi converts a pressure record; CRI counts its totals in nanoseconds, the kernel in microseconds.
func psi(p *task.PSI) *runtime.PsiStats {
	if p == nil {
		return nil
	}
	return &runtime.PsiStats{
		Some: &runtime.PsiData{Total: p.SomeTotal * 1000, Avg10: p.SomeAvg10, Avg60: p.SomeAvg60, Avg300: p.SomeAvg300},
		Full: &runtime.PsiData{Total: p.FullTotal * 1000, Avg10: p.FullAvg10, Avg60: p.FullAvg60, Avg300: p.FullAvg300},
	}
}
