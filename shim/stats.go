package shim

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/cri-pouch/cri-pouch/internal/cgrouptree"
	shimapi "github.com/cri-pouch/cri-pouch/shim/api/v1"
)

// stats reads the figures of a container that has not been removed.
func (s *Server) stats(id string) (*shimapi.StatsResponse, error) {
	c, err := s.get(id)
	if err != nil {
		return nil, err
	}
	st, err := c.tree.Stats()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the cgroup of container %s is gone: %w", id, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("stats of container %s: %w", id, err)
	}
	return &shimapi.StatsResponse{
		Time: timestamppb.New(time.Now()), CpuUsage: st.CPUUsage, CpuUser: st.CPUUser, CpuSystem: st.CPUSystem,
		CpuPeriods: st.Periods, CpuThrottledPeriods: st.ThrottledPeriods, CpuThrottledTime: st.ThrottledTime,
		MemoryUsage: st.MemoryUsage, MemoryWorkingSet: st.WorkingSet, MemoryLimit: st.MemoryLimit, MemoryPeak: st.MemoryPeak,
		MemoryLimitHits: st.LimitHits, MemoryRss: st.RSS, MemoryCache: st.Cache, MemoryMappedFile: st.MappedFile, MemoryKernel: st.Kernel,
		MemoryActiveFile: st.ActiveFile, MemoryInactiveFile: st.InactiveFile,
		PageFaults: st.PageFaults, MajorPageFaults: st.MajorPageFaults, SwapUsage: st.SwapUsage, SwapLimit: st.SwapLimit,
		Processes: st.Processes, Pids: st.Pids, PidsLimit: st.PidsLimit, OomKills: st.OOMKills, Devices: devices(st.Devices),
		CpuPsi: psi(st.CPU), MemoryPsi: psi(st.Memory), IoPsi: psi(st.IO),
	}, nil
}

func devices(list []cgrouptree.Device) []*shimapi.DeviceIO {
	var out []*shimapi.DeviceIO
	for _, d := range list {
		out = append(out, &shimapi.DeviceIO{
			Major: d.Major, Minor: d.Minor, ReadBytes: d.ReadBytes, WriteBytes: d.WriteBytes, Reads: d.Reads, Writes: d.Writes,
		})
	}
	return out
}

func psi(p *cgrouptree.Pressure) *shimapi.PSI {
	if p == nil {
		return nil
	}
	return &shimapi.PSI{
		SomeTotal: p.Some.Total, SomeAvg10: p.Some.Avg10, SomeAvg60: p.Some.Avg60, SomeAvg300: p.Some.Avg300,
		FullTotal: p.Full.Total, FullAvg10: p.Full.Avg10, FullAvg60: p.Full.Avg60, FullAvg300: p.Full.Avg300,
	}
}
