package cri

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/shim/task"
)

// statsAtOnce bounds how many containers are read side by side.
const statsAtOnce = 8

// ContainerStats gives the use of one container.
func (s *Service) ContainerStats(ctx context.Context, r *runtime.ContainerStatsRequest) (*runtime.ContainerStatsResponse, error) {
	c, err := s.runningContainer(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	st, err := s.containerStats(ctx, c)
	if err != nil {
		return nil, err
	}
	return &runtime.ContainerStatsResponse{Stats: st}, nil
}

// ListContainerStats gives the use of all running containers that match. One that ends meanwhile is left out.
func (s *Service) ListContainerStats(ctx context.Context, r *runtime.ListContainerStatsRequest) (*runtime.ListContainerStatsResponse, error) {
	var wanted []*container
	for _, c := range s.index.listedContainers() {
		if v := c.view(); statsMatch(v, r.GetFilter()) && (v.status == task.Running || v.status == task.Paused) {
			wanted = append(wanted, c)
		}
	}
	all := make([]*runtime.ContainerStats, len(wanted))
	slots := make(chan struct{}, statsAtOnce)
	var wg sync.WaitGroup
	for i, c := range wanted {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			st, err := s.containerStats(ctx, c)
			if err == nil {
				all[i] = st
			} else if !gone(err) {
				s.Log.WithField("container", c.id).WithError(err).Warn("cannot read the container's use")
			}
		})
	}
	wg.Wait()
	resp := &runtime.ListContainerStatsResponse{}
	for _, st := range all {
		if st != nil {
			resp.Stats = append(resp.Stats, st)
		}
	}
	return resp, ctx.Err()
}

func statsMatch(v view, f *runtime.ContainerStatsFilter) bool {
	if f == nil {
		return true
	}
	return strings.HasPrefix(v.rec.ID, f.Id) && strings.HasPrefix(v.rec.SandboxID, f.PodSandboxId) && hasLabels(v.rec.Config.Labels, f.LabelSelector)
}

func (s *Service) containerStats(ctx context.Context, c *container) (*runtime.ContainerStats, error) {
	v := c.view()
	st, err := s.Runtime.Stats(ctx, c.id)
	if err != nil {
		return nil, err
	}
	at := st.Time.UnixNano()
	out := &runtime.ContainerStats{
		Attributes: &runtime.ContainerAttributes{
			Id: c.id, Metadata: containerMetadata(v.rec.Config), Labels: v.rec.Config.Labels, Annotations: v.rec.Config.Annotations,
		},
		Cpu: &runtime.CpuUsage{
			Timestamp: at, UsageCoreNanoSeconds: number(st.CPUUsage), UsageNanoCores: number(c.rate(st)), Psi: psi(st.CPUPSI),
		},
		Memory: &runtime.MemoryUsage{
			Timestamp: at, WorkingSetBytes: number(st.MemoryWorkingSet), UsageBytes: number(st.MemoryUsage), RssBytes: number(st.MemoryRSS),
			PageFaults: number(st.PageFaults), MajorPageFaults: number(st.MajorPageFaults),
			AvailableBytes: number(available(st.MemoryLimit, st.MemoryWorkingSet)), Psi: psi(st.MemoryPSI),
		},
		Swap: &runtime.SwapUsage{Timestamp: at, SwapUsageBytes: number(st.SwapUsage), SwapAvailableBytes: number(available(st.SwapLimit, st.SwapUsage))},
		Io:   &runtime.IoUsage{Timestamp: at, Psi: psi(st.IOPSI)},
	}
	usage, err := s.Rootfs.Usage(ctx, c.id)
	if err != nil && !errdefs.IsNotFound(err) {
		return nil, err
	}
	if !v.rec.Config.FreshVolumes {
		volumes, err := s.volumeUsage(ctx, v.rec)
		if err != nil {
			return nil, err
		}
		usage.Bytes, usage.Inodes = usage.Bytes+volumes.Bytes, usage.Inodes+volumes.Inodes
	}
	out.WritableLayer = &runtime.FilesystemUsage{
		Timestamp: nanos(usage.Time), FsId: &runtime.FilesystemIdentifier{Mountpoint: usage.Mountpoint},
		UsedBytes: number(usage.Bytes), InodesUsed: number(usage.Inodes),
	}
	return out, nil
}

// rate is the CPU use since the reading before, in billionths of a core; 0 for the first one.
func (c *container) rate(st task.Stats) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.lastCPU
	elapsed := st.Time.Sub(before.at)
	if before.at.IsZero() || st.CPUUsage < before.usage {
		c.lastCPU = cpuReading{st.Time, st.CPUUsage, 0}
		return 0
	}
	if elapsed < minRateSpan { // two readers at once: too short a span says nothing
		return before.rate
	}
	rate := uint64(float64(st.CPUUsage-before.usage) / elapsed.Seconds())
	c.lastCPU = cpuReading{st.Time, st.CPUUsage, rate}
	return rate
}

// minRateSpan is the shortest span that a rate is computed over.
const minRateSpan = 100 * time.Millisecond

type cpuReading struct {
	at    time.Time
	usage uint64 // ns
	rate  uint64 // ns per second
}

func number(v uint64) *runtime.UInt64Value { return &runtime.UInt64Value{Value: v} }

func available(limit, used uint64) uint64 {
	if limit > used {
		return limit - used
	}
	return 0
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
