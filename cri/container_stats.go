package cri

import (
	"context"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/cri/model"
	"github.com/cri-pouch/cri-pouch/internal/crash"
	"github.com/cri-pouch/cri-pouch/shim/task"
	"github.com/cri-pouch/cri-pouch/snapshot"
)

// statsAtOnce bounds how many containers, and how many pods, are read side by side.
const statsAtOnce = 8

// ContainerStats gives the use of one container.
func (s *Service) ContainerStats(ctx context.Context, r *runtime.ContainerStatsRequest) (*runtime.ContainerStatsResponse, error) {
	c, err := s.runningContainer(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	reading, err := s.readContainer(ctx, c)
	if err != nil {
		return nil, err
	}
	return &runtime.ContainerStatsResponse{Stats: reading.message()}, nil
}

// ListContainerStats gives the use of all running containers that match. One that ends meanwhile is left out.
func (s *Service) ListContainerStats(ctx context.Context, r *runtime.ListContainerStatsRequest) (*runtime.ListContainerStatsResponse, error) {
	all, err := s.listContainerStats(ctx, r.GetFilter())
	if err != nil {
		return nil, err
	}
	return &runtime.ListContainerStatsResponse{Stats: all}, nil
}

func (s *Service) listContainerStats(ctx context.Context, f *runtime.ContainerStatsFilter) ([]*runtime.ContainerStats, error) {
	var wanted []*container
	for _, c := range s.index.listedContainers() {
		if v := c.view(); statsMatch(v, f) && hasProcesses(v) {
			wanted = append(wanted, c)
		}
	}
	readings := gather(wanted, func(c *container) *containerReading { return s.tryReadContainer(ctx, c) })
	var all []*runtime.ContainerStats
	for _, r := range readings {
		all = append(all, r.message())
	}
	return all, ctx.Err()
}

func statsMatch(v view, f *runtime.ContainerStatsFilter) bool {
	if f == nil {
		return true
	}
	return strings.HasPrefix(v.rec.ID, f.Id) && strings.HasPrefix(v.rec.SandboxID, f.PodSandboxId) && hasLabels(v.rec.Config.Labels, f.LabelSelector)
}

func hasProcesses(v view) bool { return v.status == task.Running || v.status == task.Paused }

// gather calls read for each item, a bounded number at once, and keeps the order; what read gives nil for is left out.
func gather[T, R any](items []T, read func(T) *R) []*R {
	all := make([]*R, len(items))
	slots := make(chan struct{}, statsAtOnce)
	var wg sync.WaitGroup
	for i, item := range items {
		slots <- struct{}{}
		wg.Go(crash.Guard(nil, "read figures", func() {
			defer func() { <-slots }()
			all[i] = read(item)
		}))
	}
	wg.Wait()
	kept := all[:0]
	for _, r := range all {
		if r != nil {
			kept = append(kept, r)
		}
	}
	return kept
}

// containerReading is what was read of a container at one time.
type containerReading struct {
	v     view
	stats task.Stats
	rate  *uint64           // nil: not known yet
	layer *snapshot.FSUsage // of the writable layer; nil: not known
}

func (s *Service) readContainer(ctx context.Context, c *container) (*containerReading, error) {
	st, err := s.Runtime.Stats(ctx, c.id)
	if err != nil {
		return nil, err
	}
	r := &containerReading{v: c.view(), stats: st, rate: c.cpu.rateAt(st.Time, st.CPUUsage)}
	r.layer, err = c.disk.read(ctx, diskWait, func(ctx context.Context) (snapshot.FSUsage, error) { return s.diskUsage(ctx, r.v.rec) })
	if err != nil && !errdefs.IsNotFound(err) {
		return nil, err
	}
	return r, nil
}

// diskUsage is what the container has written: its layer and its volumes.
func (s *Service) diskUsage(ctx context.Context, rec model.Container) (snapshot.FSUsage, error) {
	use, err := s.Rootfs.Usage(ctx, rec.ID)
	if err != nil || rec.Config.FreshVolumes {
		return use, err
	}
	volumes, err := s.volumeUsage(ctx, rec)
	use.Bytes, use.Inodes = use.Bytes+volumes.Bytes, use.Inodes+volumes.Inodes
	return use, err
}

// tryReadContainer is nil for a container that ended meanwhile, and for one that cannot be read, which the log tells: one
// bad container must not hide all others.
func (s *Service) tryReadContainer(ctx context.Context, c *container) *containerReading {
	r, err := s.readContainer(ctx, c)
	if err != nil && !gone(err) && ctx.Err() == nil {
		s.Log.WithField("container", c.id).WithError(err).Warn("cannot read the container's use")
	}
	return r
}

func (r *containerReading) message() *runtime.ContainerStats {
	at := r.stats.Time.UnixNano()
	out := &runtime.ContainerStats{
		Attributes: &runtime.ContainerAttributes{
			Id: r.v.rec.ID, Metadata: containerMetadata(r.v.rec.Config), Labels: r.v.rec.Config.Labels, Annotations: r.v.rec.Config.Annotations,
		},
		Cpu: cpuUsage(r.stats, r.rate), Memory: memoryUsage(r.stats), Io: ioUsage(r.stats),
		Swap: &runtime.SwapUsage{Timestamp: at, SwapUsageBytes: number(r.stats.SwapUsage), SwapAvailableBytes: available(r.stats.SwapLimit, r.stats.SwapUsage)},
	}
	if l := r.layer; l != nil {
		out.WritableLayer = &runtime.FilesystemUsage{
			Timestamp: nanos(l.Time), FsId: &runtime.FilesystemIdentifier{Mountpoint: l.Mountpoint},
			UsedBytes: number(l.Bytes), InodesUsed: number(l.Inodes),
		}
	}
	return out
}
