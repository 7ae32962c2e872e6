package cri

import (
	"strconv"

	"github.com/cri-pouch/cri-pouch/cri/model"
	"github.com/cri-pouch/cri-pouch/network"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

func cpuFamilies() []family {
	total := func(m *measured) []sample { return []sample{{m.stats.CPUUsage / 1e9, []string{"total"}}} }
	return []family{
		{name: "container_cpu_usage_seconds_total", help: "CPU time used, in seconds", kind: counter, labels: []string{"cpu"}, inPod: true, read: total},
		{name: "container_cpu_user_seconds_total", help: "CPU time used in user mode, in seconds", kind: counter, inPod: true,
			read: seconds(func(st task.Stats) uint64 { return st.CPUUser })},
		{name: "container_cpu_system_seconds_total", help: "CPU time used in kernel mode, in seconds", kind: counter, inPod: true,
			read: seconds(func(st task.Stats) uint64 { return st.CPUSystem })},
		{name: "container_cpu_cfs_periods_total", help: "Periods of the CPU quota that have passed", kind: counter, inPod: true,
			read: one(func(st task.Stats) uint64 { return st.CPUPeriods })},
		{name: "container_cpu_cfs_throttled_periods_total", help: "Periods in which the CPU quota was used up", kind: counter, inPod: true,
			read: one(func(st task.Stats) uint64 { return st.CPUThrottledPeriods })},
		{name: "container_cpu_cfs_throttled_seconds_total", help: "Time for which the CPU quota made processes wait, in seconds", kind: counter, inPod: true,
			read: seconds(func(st task.Stats) uint64 { return st.CPUThrottledTime })},
	}
}

func memoryFamilies() []family {
	plain := func(name, help string, get func(task.Stats) uint64) family {
		return family{name: name, help: help, kind: gauge, inPod: true, read: one(get)}
	}
	faults := func(m *measured) []sample {
		return []sample{{m.stats.PageFaults, []string{"pgfault", "hierarchy"}}, {m.stats.MajorPageFaults, []string{"pgmajfault", "hierarchy"}}}
	}
	return []family{
		plain("container_memory_usage_bytes", "Memory in use, page cache included", func(st task.Stats) uint64 { return st.MemoryUsage }),
		plain("container_memory_working_set_bytes", "Memory in use less file pages that were not used lately", func(st task.Stats) uint64 { return st.MemoryWorkingSet }),
		plain("container_memory_rss", "Anonymous memory, in bytes", func(st task.Stats) uint64 { return st.MemoryRSS }),
		plain("container_memory_cache", "Page cache, in bytes", func(st task.Stats) uint64 { return st.MemoryCache }),
		plain("container_memory_swap", "Swap in use, in bytes", func(st task.Stats) uint64 { return st.SwapUsage }),
		plain("container_memory_mapped_file", "Mapped file pages, in bytes", func(st task.Stats) uint64 { return st.MemoryMappedFile }),
		plain("container_memory_kernel_usage", "Memory that the kernel holds, in bytes", func(st task.Stats) uint64 { return st.MemoryKernel }),
		plain("container_memory_total_active_file_bytes", "File pages that were used lately, in bytes", func(st task.Stats) uint64 { return st.MemoryActiveFile }),
		plain("container_memory_total_inactive_file_bytes", "File pages that were not used lately, in bytes", func(st task.Stats) uint64 { return st.MemoryInactiveFile }),
		plain("container_memory_max_usage_bytes", "Highest memory use so far", func(st task.Stats) uint64 { return st.MemoryPeak }),
		{name: "container_memory_failcnt", help: "How often memory use ran into its limit", kind: counter, inPod: true,
			read: one(func(st task.Stats) uint64 { return st.MemoryLimitHits })},
		{name: "container_memory_failures_total", help: "Page faults", kind: counter, inPod: true, labels: []string{"failure_type", "scope"}, read: faults},
		{name: "container_oom_events_total", help: "Processes that the kernel's OOM killer ended", kind: counter,
			read: one(func(st task.Stats) uint64 { return st.OOMKills })},
	}
}

func processFamilies() []family {
	open := func(get func(openFiles) uint64) func(*measured) []sample {
		return func(m *measured) []sample { return []sample{{value: get(m.files)}} }
	}
	started := func(m *measured) []sample { return []sample{{value: uint64(max(m.container.v.startedAt.Unix(), 0))}} }
	seen := func(m *measured) []sample { return []sample{{value: uint64(m.stats.Time.Unix())}} }
	return []family{
		{name: "container_processes", help: "Processes", kind: gauge, inPod: true, read: one(func(st task.Stats) uint64 { return st.Processes })},
		{name: "container_threads", help: "Threads", kind: gauge, inPod: true, read: one(func(st task.Stats) uint64 { return st.Pids })},
		{name: "container_threads_max", help: "Threads allowed; 0: no limit", kind: gauge, read: one(func(st task.Stats) uint64 { return st.PidsLimit })},
		{name: "container_file_descriptors", help: "Open file descriptors", kind: gauge, read: open(func(f openFiles) uint64 { return f.all })},
		{name: "container_sockets", help: "Open sockets", kind: gauge, read: open(func(f openFiles) uint64 { return f.sockets })},
		{name: "container_start_time_seconds", help: "When the container was started, in seconds since 1970", kind: gauge, read: started},
		{name: "container_last_seen", help: "When these figures were read, in seconds since 1970", kind: gauge, read: seen},
	}
}

// limitFamilies tell what the container was asked to have.
func limitFamilies() []family {
	asked := func(name, help string, get func(model.Resources) int64) family {
		return family{name: name, help: help, kind: gauge, read: func(m *measured) []sample {
			r := m.container.v.rec.Config.Resources
			if r == nil {
				return nil
			}
			return ifSet(uint64(max(get(*r), 0)))
		}}
	}
	return []family{
		asked("container_spec_cpu_period", "Period of the CPU quota, in microseconds", func(r model.Resources) int64 { return r.CPUPeriod }),
		asked("container_spec_cpu_quota", "CPU quota, in microseconds of each period", func(r model.Resources) int64 { return r.CPUQuota }),
		asked("container_spec_cpu_shares", "CPU shares", func(r model.Resources) int64 { return r.CPUShares }),
		{name: "container_spec_memory_limit_bytes", help: "Memory limit; 0: none", kind: gauge, read: one(func(st task.Stats) uint64 { return st.MemoryLimit })},
		{name: "container_spec_memory_swap_limit_bytes", help: "Swap limit; 0: none", kind: gauge, read: one(func(st task.Stats) uint64 { return st.SwapLimit })},
	}
}

func ifSet(value uint64) []sample {
	if value == 0 {
		return nil
	}
	return []sample{{value: value}}
}

// pressureFamilies are empty where the kernel has no PSI, as with cgroup v1.
func pressureFamilies() []family {
	var all []family
	for _, resource := range []struct {
		name string
		get  func(task.Stats) *task.PSI
	}{
		{"cpu", func(st task.Stats) *task.PSI { return st.CPUPSI }},
		{"memory", func(st task.Stats) *task.PSI { return st.MemoryPSI }},
		{"io", func(st task.Stats) *task.PSI { return st.IOPSI }},
	} {
		for _, kind := range []struct {
			name, help string
			get        func(*task.PSI) uint64
		}{
			{"waiting", "Time for which some processes waited for " + resource.name + ", in seconds", func(p *task.PSI) uint64 { return p.SomeTotal }},
			{"stalled", "Time for which all processes waited for " + resource.name + ", in seconds", func(p *task.PSI) uint64 { return p.FullTotal }},
		} {
			all = append(all, family{
				name: "container_pressure_" + resource.name + "_" + kind.name + "_seconds_total", help: kind.help, kind: counter, inPod: true,
				read: func(m *measured) []sample {
					p := resource.get(m.stats)
					if p == nil {
						return nil
					}
					return []sample{{value: kind.get(p) / 1e6}}
				},
			})
		}
	}
	return all
}

func networkFamilies() []family {
	var all []family
	for _, direction := range []struct {
		name, verb string
		get        func(network.Interface) network.Traffic
	}{
		{"receive", "received", func(i network.Interface) network.Traffic { return i.Rx }},
		{"transmit", "sent", func(i network.Interface) network.Traffic { return i.Tx }},
	} {
		for _, what := range []struct {
			name, help string
			get        func(network.Traffic) uint64
		}{
			{"bytes", "Bytes " + direction.verb, func(t network.Traffic) uint64 { return t.Bytes }},
			{"packets", "Packets " + direction.verb, func(t network.Traffic) uint64 { return t.Packets }},
			{"packets_dropped", "Packets dropped that should have been " + direction.verb, func(t network.Traffic) uint64 { return t.Dropped }},
			{"errors", "Errors of packets " + direction.verb, func(t network.Traffic) uint64 { return t.Errors }},
		} {
			all = append(all, family{
				name: "container_network_" + direction.name + "_" + what.name + "_total", help: what.help, kind: counter, labels: []string{"interface"},
				traffic: func(i network.Interface) uint64 { return what.get(direction.get(i)) },
			})
		}
	}
	return all
}

// deviceNumbers is how the kernel names a block device in /sys/dev/block.
func deviceNumbers(major, minor uint64) string {
	return strconv.FormatUint(major, 10) + ":" + strconv.FormatUint(minor, 10)
}
