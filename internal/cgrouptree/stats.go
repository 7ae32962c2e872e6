package cgrouptree

import (
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Stats are the figures of a tree in bytes, nanoseconds and counts. What the kernel does not tell is 0.
type Stats struct {
	CPUUsage, CPUUser, CPUSystem   uint64
	Periods, ThrottledPeriods      uint64 // of the CPU quota
	ThrottledTime                  uint64
	MemoryUsage, WorkingSet        uint64
	MemoryLimit                    uint64 // 0: none
	MemoryPeak                     uint64
	LimitHits                      uint64 // how often usage ran into MemoryLimit
	RSS, Cache, MappedFile, Kernel uint64
	ActiveFile, InactiveFile       uint64
	PageFaults, MajorPageFaults    uint64
	SwapUsage, SwapLimit           uint64
	Processes                      uint64
	Pids, PidsLimit                uint64 // threads, as the pids controller counts
	OOMKills                       uint64
	Devices                        []Device
	CPU, Memory, IO                *Pressure // nil on v1
}

// Pressure is a PSI record (Documentation/accounting/psi.rst): totals in µs, averages in per cent.
type Pressure struct{ Some, Full Stall }

// Stall is one line of it.
type Stall struct {
	Avg10, Avg60, Avg300 float64
	Total                uint64
}

// tick is the unit of cpuacct.stat in nanoseconds: USER_HZ is 100 wherever Linux runs (time(7)).
const tick = 10_000_000

// Stats reads the figures. os.ErrNotExist when the cgroup is gone.
func (t Tree) Stats() (Stats, error) {
	if _, err := os.Stat(t.list()); err != nil {
		return Stats{}, err
	}
	var s Stats
	if p, ok := t.v2(); ok {
		s = statsV2(p)
	} else {
		s = t.statsV1()
	}
	s.OOMKills = t.OOMKills()
	pids, err := t.Pids()
	s.Processes = uint64(len(pids))
	return s, err
}

// statsV1 follows Documentation/admin-guide/cgroup-v1: "total_" figures of memory.stat count the cgroups below.
func (t Tree) statsV1() Stats {
	mem := t["memory"]
	stat, ticks, quota := keyed(filepath.Join(mem, "memory.stat")), keyed(filepath.Join(t["cpuacct"], "cpuacct.stat")), keyed(filepath.Join(t["cpu"], "cpu.stat"))
	s := Stats{
		CPUUsage:         number(filepath.Join(t["cpuacct"], "cpuacct.usage")),
		CPUUser:          ticks["user"] * tick,
		CPUSystem:        ticks["system"] * tick,
		Periods:          quota["nr_periods"],
		ThrottledPeriods: quota["nr_throttled"],
		ThrottledTime:    quota["throttled_time"],
		MemoryUsage:      number(filepath.Join(mem, "memory.usage_in_bytes")),
		MemoryLimit:      limitV1(number(filepath.Join(mem, "memory.limit_in_bytes"))),
		MemoryPeak:       number(filepath.Join(mem, "memory.max_usage_in_bytes")),
		LimitHits:        number(filepath.Join(mem, "memory.failcnt")),
		RSS:              stat["total_rss"],
		Cache:            stat["total_cache"],
		MappedFile:       stat["total_mapped_file"],
		Kernel:           number(filepath.Join(mem, "memory.kmem.usage_in_bytes")),
		ActiveFile:       stat["total_active_file"],
		InactiveFile:     stat["total_inactive_file"],
		PageFaults:       stat["total_pgfault"],
		MajorPageFaults:  stat["total_pgmajfault"],
		Pids:             number(filepath.Join(t["pids"], "pids.current")),
		PidsLimit:        number(filepath.Join(t["pids"], "pids.max")),
		Devices:          devicesV1(t["blkio"]),
	}
	s.WorkingSet = less(s.MemoryUsage, s.InactiveFile)
	// memsw counts memory and swap together.
	s.SwapUsage = less(number(filepath.Join(mem, "memory.memsw.usage_in_bytes")), s.MemoryUsage)
	if both := limitV1(number(filepath.Join(mem, "memory.memsw.limit_in_bytes"))); both > 0 && s.MemoryLimit > 0 {
		s.SwapLimit = less(both, s.MemoryLimit)
	}
	return s
}

// statsV2 follows Documentation/admin-guide/cgroup-v2.rst.
func statsV2(p string) Stats {
	stat, cpu := keyed(filepath.Join(p, "memory.stat")), keyed(filepath.Join(p, "cpu.stat"))
	s := Stats{
		CPUUsage:         cpu["usage_usec"] * 1000,
		CPUUser:          cpu["user_usec"] * 1000,
		CPUSystem:        cpu["system_usec"] * 1000,
		Periods:          cpu["nr_periods"],
		ThrottledPeriods: cpu["nr_throttled"],
		ThrottledTime:    cpu["throttled_usec"] * 1000,
		MemoryUsage:      number(filepath.Join(p, "memory.current")),
		MemoryLimit:      number(filepath.Join(p, "memory.max")),
		MemoryPeak:       number(filepath.Join(p, "memory.peak")),
		LimitHits:        keyed(filepath.Join(p, "memory.events"))["max"],
		RSS:              stat["anon"],
		Cache:            stat["file"],
		MappedFile:       stat["file_mapped"],
		Kernel:           stat["kernel"],
		ActiveFile:       stat["active_file"],
		InactiveFile:     stat["inactive_file"],
		PageFaults:       stat["pgfault"],
		MajorPageFaults:  stat["pgmajfault"],
		SwapUsage:        number(filepath.Join(p, "memory.swap.current")),
		SwapLimit:        number(filepath.Join(p, "memory.swap.max")),
		Pids:             number(filepath.Join(p, "pids.current")),
		PidsLimit:        number(filepath.Join(p, "pids.max")),
		Devices:          devicesV2(p),
		CPU:              pressure(filepath.Join(p, "cpu.pressure")),
		Memory:           pressure(filepath.Join(p, "memory.pressure")),
		IO:               pressure(filepath.Join(p, "io.pressure")),
	}
	s.WorkingSet = less(s.MemoryUsage, s.InactiveFile)
	return s
}

// number reads a file with one number; 0 for "max", and where it cannot be read.
func number(path string) uint64 {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	return n
}

// limitV1 turns v1's "no limit", the largest multiple of the page size in an int64, into 0.
func limitV1(n uint64) uint64 {
	if n >= math.MaxInt64-1<<20 {
		return 0
	}
	return n
}

func less(a, b uint64) uint64 {
	if b > a {
		return 0
	}
	return a - b
}

func pressure(path string) *Pressure {
	b, err := os.ReadFile(path)
	if err != nil { // not compiled in, or switched off (psi=0)
		return nil
	}
	var p Pressure
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		switch f[0] {
		case "some":
			p.Some = stall(f[1:])
		case "full":
			p.Full = stall(f[1:])
		}
	}
	return &p
}

func stall(fields []string) Stall {
	var s Stall
	for _, f := range fields {
		key, value, _ := strings.Cut(f, "=")
		x, _ := strconv.ParseFloat(value, 64)
		switch key {
		case "avg10":
			s.Avg10 = x
		case "avg60":
			s.Avg60 = x
		case "avg300":
			s.Avg300 = x
		case "total":
			s.Total, _ = strconv.ParseUint(value, 10, 64)
		}
	}
	return s
}
