package cri

import (
	"context"
	"strings"

	"github.com/containerd/errdefs"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/cri/model"
	"github.com/cri-pouch/cri-pouch/network"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

// PodSandboxStats gives the use of one pod. InvalidArgument for an empty ID, which the kubelet sends at its start to learn
// whether the call is served at all; NotFound for an unknown one.
func (s *Service) PodSandboxStats(ctx context.Context, r *runtime.PodSandboxStatsRequest) (*runtime.PodSandboxStatsResponse, error) {
	sb, err := s.index.sandbox(r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	reading, err := s.readSandbox(ctx, sb)
	if err != nil {
		return nil, err
	}
	return &runtime.PodSandboxStatsResponse{Stats: reading.message()}, nil
}

// ListPodSandboxStats gives the use of all ready pods that match, oldest first.
func (s *Service) ListPodSandboxStats(ctx context.Context, r *runtime.ListPodSandboxStatsRequest) (*runtime.ListPodSandboxStatsResponse, error) {
	all, err := s.listSandboxStats(ctx, r.GetFilter())
	if err != nil {
		return nil, err
	}
	return &runtime.ListPodSandboxStatsResponse{Stats: all}, nil
}

func (s *Service) listSandboxStats(ctx context.Context, f *runtime.PodSandboxStatsFilter) ([]*runtime.PodSandboxStats, error) {
	readings, err := s.readSandboxes(ctx, func(rec model.Sandbox) bool {
		return strings.HasPrefix(rec.ID, f.GetId()) && hasLabels(rec.Config.Labels, f.GetLabelSelector())
	})
	var all []*runtime.PodSandboxStats
	for _, r := range readings {
		all = append(all, r.message())
	}
	return all, err
}

// sandboxReading is what was read of a pod at one time.
type sandboxReading struct {
	rec        model.Sandbox
	stats      task.Stats
	own        bool // stats are those of the pod's own cgroup, else the sum of its containers
	rate       *uint64
	containers []*containerReading
	interfaces []network.Interface // none: on the host network, or gone
}

// readSandboxes reads all ready pods that match. One that cannot be read is left out and the log tells why.
func (s *Service) readSandboxes(ctx context.Context, match func(model.Sandbox) bool) ([]*sandboxReading, error) {
	var wanted []*sandbox
	for _, sb := range s.index.listedSandboxes() {
		if rec := sb.record(); rec.State == model.SandboxReady && match(rec) {
			wanted = append(wanted, sb)
		}
	}
	readings := gather(wanted, func(sb *sandbox) *sandboxReading {
		r, err := s.readSandbox(ctx, sb)
		if err != nil && ctx.Err() == nil {
			s.Log.WithField("pod", sb.id).WithError(err).Warn("cannot read the pod's use")
		}
		return r
	})
	return readings, ctx.Err()
}

func (s *Service) readSandbox(ctx context.Context, sb *sandbox) (*sandboxReading, error) {
	r := &sandboxReading{rec: sb.record()}
	for _, c := range s.index.containersOf(sb.id) {
		if !c.isListed() || !hasProcesses(c.view()) {
			continue
		}
		if reading := s.tryReadContainer(ctx, c); reading != nil {
			r.containers = append(r.containers, reading)
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var err error
	if r.stats, r.own, err = s.readCgroup(r.rec); err != nil {
		return nil, err
	}
	if !r.own {
		r.stats = sum(r.containers)
	}
	r.rate = sb.cpu.rateAt(r.stats.Time, r.stats.CPUUsage)
	r.interfaces, err = s.Network.Interfaces(ctx, sb.pod())
	if err != nil && !errdefs.IsNotFound(err) {
		return nil, err
	}
	return r, nil
}

func (r *sandboxReading) message() *runtime.PodSandboxStats {
	at := r.stats.Time.UnixNano()
	linux := &runtime.LinuxPodSandboxStats{
		Cpu: cpuUsage(r.stats, r.rate), Memory: memoryUsage(r.stats), Io: ioUsage(r.stats), Network: networkUsage(at, r.interfaces),
		Process: &runtime.ProcessUsage{Timestamp: at, ProcessCount: number(r.stats.Processes)},
	}
	for _, c := range r.containers {
		linux.Containers = append(linux.Containers, c.message())
	}
	return &runtime.PodSandboxStats{
		Attributes: &runtime.PodSandboxAttributes{
			Id: r.rec.ID, Metadata: sandboxMetadata(r.rec.Config), Labels: r.rec.Config.Labels, Annotations: r.rec.Config.Annotations,
		},
		Linux: linux,
	}
}

// networkUsage is nil without interfaces. The first one is the pod's main one.
func networkUsage(at int64, interfaces []network.Interface) *runtime.NetworkUsage {
	if len(interfaces) == 0 {
		return nil
	}
	u := &runtime.NetworkUsage{Timestamp: at, DefaultInterface: interfaceUsage(interfaces[0])}
	for _, i := range interfaces[1:] {
		u.Interfaces = append(u.Interfaces, interfaceUsage(i))
	}
	return u
}

func interfaceUsage(i network.Interface) *runtime.NetworkInterfaceUsage {
	return &runtime.NetworkInterfaceUsage{
		Name: i.Name, RxBytes: number(i.Rx.Bytes), RxErrors: number(i.Rx.Errors), TxBytes: number(i.Tx.Bytes), TxErrors: number(i.Tx.Errors),
	}
}
