package client

import (
	"context"

	shimapi "github.com/cri-pouch/cri-pouch/shim/api/v1"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

// Stats reads the container's cgroups.
func (c *Client) Stats(ctx context.Context, id string) (task.Stats, error) {
	var s *shimapi.StatsResponse
	err := c.call(ctx, func(conn *connection) (err error) {
		s, err = conn.shim.Stats(ctx, &shimapi.StatsRequest{Id: id})
		return err
	})
	if err != nil {
		return task.Stats{}, err
	}
	return task.Stats{
		Time: s.Time.AsTime(), CPUUsage: s.CpuUsage, CPUUser: s.CpuUser, CPUSystem: s.CpuSystem,
		CPUPeriods: s.CpuPeriods, CPUThrottledPeriods: s.CpuThrottledPeriods, CPUThrottledTime: s.CpuThrottledTime,
		MemoryUsage: s.MemoryUsage, MemoryWorkingSet: s.MemoryWorkingSet, MemoryLimit: s.MemoryLimit, MemoryPeak: s.MemoryPeak,
		MemoryLimitHits: s.MemoryLimitHits, MemoryRSS: s.MemoryRss, MemoryCache: s.MemoryCache, MemoryMappedFile: s.MemoryMappedFile,
		MemoryKernel: s.MemoryKernel, MemoryActiveFile: s.MemoryActiveFile, MemoryInactiveFile: s.MemoryInactiveFile,
		PageFaults: s.PageFaults, MajorPageFaults: s.MajorPageFaults, SwapUsage: s.SwapUsage, SwapLimit: s.SwapLimit,
		Processes: s.Processes, Pids: s.Pids, PidsLimit: s.PidsLimit, OOMKills: s.OomKills, Devices: devices(s.Devices),
		CPUPSI: psi(s.CpuPsi), MemoryPSI: psi(s.MemoryPsi), IOPSI: psi(s.IoPsi),
	}, nil
}

func devices(list []*shimapi.DeviceIO) []task.DeviceIO {
	var out []task.DeviceIO
	for _, d := range list {
		out = append(out, task.DeviceIO{
			Major: d.Major, Minor: d.Minor, ReadBytes: d.ReadBytes, WriteBytes: d.WriteBytes, Reads: d.Reads, Writes: d.Writes,
		})
	}
	return out
}

func psi(p *shimapi.PSI) *task.PSI {
	if p == nil {
		return nil
	}
	return &task.PSI{
		SomeTotal: p.SomeTotal, FullTotal: p.FullTotal,
		SomeAvg10: p.SomeAvg10, SomeAvg60: p.SomeAvg60, SomeAvg300: p.SomeAvg300,
		FullAvg10: p.FullAvg10, FullAvg60: p.FullAvg60, FullAvg300: p.FullAvg300,
	}
}
