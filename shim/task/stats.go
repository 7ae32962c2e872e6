package task

import "time"

// Stats are the figures of a container's cgroups, in bytes, nanoseconds and counts. What the kernel does not tell is 0.
type Stats struct {
	Time                time.Time
	CPUUsage            uint64 // ns, total
	CPUUser, CPUSystem  uint64 // ns
	CPUPeriods          uint64 // of the CPU quota
	CPUThrottledPeriods uint64
	CPUThrottledTime    uint64 // ns
	MemoryUsage         uint64
	MemoryWorkingSet    uint64 // usage less inactive file pages
	MemoryLimit         uint64 // 0: none
	MemoryPeak          uint64
	MemoryLimitHits     uint64 // how often usage ran into the limit
	MemoryRSS           uint64
	MemoryCache         uint64
	MemoryMappedFile    uint64
	MemoryKernel        uint64
	MemoryActiveFile    uint64
	MemoryInactiveFile  uint64
	PageFaults          uint64
	MajorPageFaults     uint64
	SwapUsage           uint64
	SwapLimit           uint64
	Processes           uint64
	Pids, PidsLimit     uint64 // threads, as the pids controller counts; limit 0: none
	OOMKills            uint64
	Devices             []DeviceIO
	CPUPSI, MemoryPSI   *PSI // nil where the kernel has none (cgroup v1)
	IOPSI               *PSI
}

// DeviceIO is what was read from and written to one block device, in bytes and requests.
type DeviceIO struct {
	Major, Minor          uint64
	ReadBytes, WriteBytes uint64
	Reads, Writes         uint64
}

// PSI is a pressure stall record (Documentation/accounting/psi.rst); Total in µs, averages in per cent.
type PSI struct {
	SomeTotal, FullTotal                                               uint64
	SomeAvg10, SomeAvg60, SomeAvg300, FullAvg10, FullAvg60, FullAvg300 float64
}
