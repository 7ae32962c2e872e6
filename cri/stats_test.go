package cri

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/cri/model"
	"github.com/cri-pouch/cri-pouch/internal/cgrouptree"
	"github.com/cri-pouch/cri-pouch/network"
	"github.com/cri-pouch/cri-pouch/shim/task"
	"github.com/cri-pouch/cri-pouch/snapshot"
)

// These stand in for the rooms that stats are read from.
type (
	statsRuntime struct {
		task.Runtime
		broken string // a container that cannot be read
	}
	statsRootfs  struct{ Rootfs }
	statsNetwork struct{ Network }
	statsVolumes struct{ Volumes }
)

func (r statsRuntime) Stats(_ context.Context, id string) (task.Stats, error) {
	if id == r.broken {
		return task.Stats{}, errors.New("broken")
	}
	return task.Stats{
		Time: time.Now(), CPUUsage: 3e9, CPUUser: 2e9, CPUSystem: 1e9, CPUPeriods: 5, MemoryUsage: 1000, MemoryWorkingSet: 800, MemoryLimit: 2000,
		MemoryRSS: 700, PageFaults: 11, MajorPageFaults: 2, Processes: 4, Pids: 9, PidsLimit: 100, CPUPSI: &task.PSI{SomeTotal: 7e6, FullTotal: 1},
		Devices: []task.DeviceIO{{Major: 0, Minor: 99, ReadBytes: 5}, {Major: 0, Minor: 98, ReadBytes: 6}},
	}, nil
}

// Pids gives this process, whose descriptors are real.
func (statsRuntime) Pids(context.Context, string) ([]uint32, error) {
	return []uint32{uint32(os.Getpid()), 1 << 30}, nil
}

func (statsRootfs) Usage(_ context.Context, id string) (snapshot.FSUsage, error) {
	if id == "c2" {
		return snapshot.FSUsage{}, errdefs.ErrNotFound
	}
	return snapshot.FSUsage{Time: time.Now(), Mountpoint: "/", Bytes: 42, Inodes: 3}, nil
}

// Usage of volumes counts in the writable layer.
func (statsVolumes) Usage(context.Context, string, string) (snapshot.FSUsage, error) {
	return snapshot.FSUsage{Bytes: 100, Inodes: 1}, nil
}

func (statsNetwork) Interfaces(_ context.Context, pod network.Pod) ([]network.Interface, error) {
	if pod.ID != "p1" {
		return nil, errdefs.ErrNotFound
	}
	return []network.Interface{{Name: "eth0", Rx: network.Traffic{Bytes: 1, Errors: 2}, Tx: network.Traffic{Bytes: 3, Errors: 4}}, {Name: "other"}}, nil
}

// newStatsService has the ready pod p1 with the running containers c1 and c2 and the ended c3, the ready pod p2 without
// any, and p3, which is not ready.
func newStatsService(broken string) *Service {
	log := logrus.New()
	log.SetOutput(io.Discard)
	s := New(Options{Runtime: statsRuntime{broken: broken}, Rootfs: statsRootfs{}, Network: statsNetwork{}, Volumes: statsVolumes{}, Log: logrus.NewEntry(log)})
	for i, id := range []string{"p1", "p2", "p3"} {
		rec := model.Sandbox{ID: id, State: model.SandboxReady, CreatedAt: time.Unix(int64(i), 0)}
		rec.Config = model.SandboxConfig{Name: "name-" + id, Namespace: "space", UID: "uid-" + id, Labels: map[string]string{"pod": id}, CgroupParent: "/shared"}
		if id == "p3" {
			rec.State = model.SandboxNotReady
		}
		sb := newSandbox(rec)
		sb.listed.Store(true)
		s.index.addSandbox(sb)
	}
	for i, id := range []string{"c1", "c2", "c3"} {
		rec := model.Container{ID: id, SandboxID: "p1", CreatedAt: time.Unix(int64(i), 0)}
		rec.Config = model.ContainerConfig{Name: "name-" + id, UserImage: "image-" + id, Resources: &model.Resources{CPUShares: 100, CPUQuota: -1}}
		c := newContainer(rec)
		c.listed.Store(true)
		c.status, c.startedAt = task.Running, time.Unix(1000, 0)
		if id == "c3" {
			c.status = task.Stopped
		}
		s.index.addContainer(c)
	}
	return s
}

func TestStatsOfAPodWithoutACgroupOfItsOwnAreTheSumOfItsContainers(t *testing.T) {
	s := newStatsService("")
	resp, err := s.PodSandboxStats(t.Context(), &runtime.PodSandboxStatsRequest{PodSandboxId: "p1"})
	if err != nil {
		t.Fatal(err)
	}
	st := resp.Stats
	if a := st.Attributes; a.Id != "p1" || a.Metadata.Name != "name-p1" || a.Metadata.Uid != "uid-p1" || a.Labels["pod"] != "p1" {
		t.Errorf("attributes %v", a)
	}
	l := st.Linux
	if l.Cpu.UsageCoreNanoSeconds.Value != 6e9 || l.Memory.WorkingSetBytes.Value != 1600 || l.Memory.AvailableBytes != nil || l.Process.ProcessCount.Value != 8 {
		t.Errorf("cpu %v, memory %v, processes %v", l.Cpu, l.Memory, l.Process)
	}
	if d := l.Network.DefaultInterface; d.Name != "eth0" || d.RxBytes.Value != 1 || d.RxErrors.Value != 2 || d.TxBytes.Value != 3 || d.TxErrors.Value != 4 || len(l.Network.Interfaces) != 1 {
		t.Errorf("network %v", l.Network)
	}
	var ids []string
	for _, c := range l.Containers {
		ids = append(ids, c.Attributes.Id)
	}
	if !slices.Equal(ids, []string{"c1", "c2"}) {
		t.Errorf("containers %v", ids)
	}
	for what, at := range map[string]int64{"cpu": l.Cpu.Timestamp, "memory": l.Memory.Timestamp, "network": l.Network.Timestamp, "process": l.Process.Timestamp, "io": l.Io.Timestamp} {
		if at <= 0 {
			t.Errorf("the time of %s is %d", what, at)
		}
	}
}

// What the kubelet reads of a container (stats/cri_stats_provider.go, makeContainerStats) is there, and what is not known is
// absent, not 0.
func TestStatsOfAContainerAreComplete(t *testing.T) {
	s := newStatsService("")
	resp, err := s.ContainerStats(t.Context(), &runtime.ContainerStatsRequest{ContainerId: "c1"})
	if err != nil {
		t.Fatal(err)
	}
	st := resp.Stats
	for what, v := range map[string]*runtime.UInt64Value{
		"cpu": st.Cpu.UsageCoreNanoSeconds, "working set": st.Memory.WorkingSetBytes, "usage": st.Memory.UsageBytes, "rss": st.Memory.RssBytes,
		"available": st.Memory.AvailableBytes, "faults": st.Memory.PageFaults, "major faults": st.Memory.MajorPageFaults,
		"swap": st.Swap.SwapUsageBytes, "layer": st.WritableLayer.UsedBytes, "inodes": st.WritableLayer.InodesUsed,
	} {
		if v == nil {
			t.Errorf("%s is missing", what)
		}
	}
	if st.Cpu.UsageNanoCores != nil || st.Swap.SwapAvailableBytes != nil {
		t.Errorf("the first reading tells a rate (%v), or swap without a limit %v", st.Cpu.UsageNanoCores, st.Swap.SwapAvailableBytes)
	}
	if l := st.WritableLayer; l.UsedBytes.Value != 142 || l.InodesUsed.Value != 4 || l.FsId.Mountpoint != "/" {
		t.Errorf("writable layer %v", l)
	}
	if st.Memory.AvailableBytes.Value != 1200 || st.Cpu.Psi.Some.Total != 7e9 || st.Cpu.Psi.Full.Total != 1000 || st.Memory.Psi != nil || st.Io.Timestamp == 0 {
		t.Errorf("memory %v, cpu %v, io %v", st.Memory, st.Cpu, st.Io)
	}
	resp, err = s.ContainerStats(t.Context(), &runtime.ContainerStatsRequest{ContainerId: "c2"})
	if err != nil || resp.Stats.WritableLayer != nil {
		t.Errorf("a layer that is not there is reported: %v, %v", resp.GetStats().GetWritableLayer(), err)
	}
}

func TestStatsOfAnObjectThatIsNotThere(t *testing.T) {
	s := newStatsService("")
	for name, tc := range map[string]struct {
		id string
		is func(error) bool
	}{
		"the kubelet's probe": {"", errdefs.IsInvalidArgument},
		"unknown":             {"nowhere", errdefs.IsNotFound},
		"ambiguous":           {"p", errdefs.IsInvalidArgument},
	} {
		if _, err := s.PodSandboxStats(t.Context(), &runtime.PodSandboxStatsRequest{PodSandboxId: tc.id}); !tc.is(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.ContainerStats(t.Context(), &runtime.ContainerStatsRequest{ContainerId: "c3"}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("an ended container: %v", err)
	}
}

func TestListedPodsAreTheReadyOnesThatMatch(t *testing.T) {
	s := newStatsService("")
	for name, tc := range map[string]struct {
		filter *runtime.PodSandboxStatsFilter
		want   []string
	}{
		"all":         {nil, []string{"p1", "p2"}},
		"by ID":       {&runtime.PodSandboxStatsFilter{Id: "p2"}, []string{"p2"}},
		"by label":    {&runtime.PodSandboxStatsFilter{LabelSelector: map[string]string{"pod": "p1"}}, []string{"p1"}},
		"not ready":   {&runtime.PodSandboxStatsFilter{Id: "p3"}, nil},
		"both differ": {&runtime.PodSandboxStatsFilter{Id: "p2", LabelSelector: map[string]string{"pod": "p1"}}, nil},
	} {
		resp, err := s.ListPodSandboxStats(t.Context(), &runtime.ListPodSandboxStatsRequest{Filter: tc.filter})
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, p := range resp.Stats {
			ids = append(ids, p.Attributes.Id)
		}
		if !slices.Equal(ids, tc.want) {
			t.Errorf("%s: %v, want %v", name, ids, tc.want)
		}
	}
}

func TestOneBadContainerHidesNoOther(t *testing.T) {
	s := newStatsService("c1")
	resp, err := s.ListContainerStats(t.Context(), &runtime.ListContainerStatsRequest{})
	if err != nil || len(resp.Stats) != 1 || resp.Stats[0].Attributes.Id != "c2" {
		t.Errorf("%v, %v", resp, err)
	}
	pods, err := s.ListPodSandboxStats(t.Context(), &runtime.ListPodSandboxStatsRequest{})
	if err != nil || len(pods.Stats) != 2 || len(pods.Stats[0].Linux.Containers) != 1 {
		t.Errorf("%v, %v", pods, err)
	}
}

func TestStatsOfACallThatIsOver(t *testing.T) {
	s := newStatsService("")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.ListPodSandboxStats(ctx, &runtime.ListPodSandboxStatsRequest{}); !errors.Is(err, context.Canceled) {
		t.Errorf("pods: %v", err)
	}
	if _, err := s.ListContainerStats(ctx, &runtime.ListContainerStatsRequest{}); !errors.Is(err, context.Canceled) {
		t.Errorf("containers: %v", err)
	}
}

func TestOpenFilesAndSocketsAreCounted(t *testing.T) {
	s := newStatsService("")
	before := s.countOpenFiles(t.Context(), "c1")
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	after := s.countOpenFiles(t.Context(), "c1")
	_, _ = unix.Close(pair[0]), unix.Close(pair[1])
	if before.all == 0 || after.all != before.all+2 || after.sockets != before.sockets+2 {
		t.Errorf("%+v became %+v by two sockets", before, after)
	}
}

func TestEveryMetricFitsItsDescriptorAndStandsOnce(t *testing.T) {
	s := newStatsService("")
	descriptors, err := s.ListMetricDescriptors(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]int{}
	for _, d := range descriptors.Descriptors {
		if _, twice := keys[d.Name]; twice || d.Help == "" {
			t.Errorf("descriptor %v", d)
		}
		keys[d.Name] = len(d.LabelKeys)
	}
	resp, err := s.ListPodSandboxMetrics(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	series := map[string]uint64{}
	add := func(list []*runtime.Metric) {
		for _, m := range list {
			if n, ok := keys[m.Name]; !ok || n != len(m.LabelValues) {
				t.Errorf("%s has %d labels, its descriptor %d (%v)", m.Name, len(m.LabelValues), n, ok)
			}
			id := fmt.Sprint(m.Name, m.LabelValues)
			if _, twice := series[id]; twice {
				t.Errorf("%s is there twice", id)
			}
			series[id] = m.Value.Value
		}
	}
	for _, p := range resp.PodMetrics {
		add(p.Metrics)
		for _, c := range p.ContainerMetrics {
			add(c.Metrics)
		}
	}
	for id, want := range map[string]uint64{
		"container_cpu_usage_seconds_total[c1 c1 image-c1 name-c1 name-p1 space total]":      3,
		"container_memory_working_set_bytes[c2 c2 image-c2 name-c2 name-p1 space]":           800,
		"container_network_receive_bytes_total[p1 p1   name-p1 space eth0]":                  1,
		"container_pressure_cpu_waiting_seconds_total[c1 c1 image-c1 name-c1 name-p1 space]": 7,
		"container_spec_cpu_shares[c1 c1 image-c1 name-c1 name-p1 space]":                    100,
		"container_fs_reads_bytes_total[c1 c1 image-c1 name-c1 name-p1 space 0:98]":          6,
		"container_start_time_seconds[c1 c1 image-c1 name-c1 name-p1 space]":                 1000,
	} {
		if got, ok := series[id]; !ok || got != want {
			t.Errorf("%s is %d (%v), want %d", id, got, ok, want)
		}
	}
	for _, absent := range []string{
		"container_spec_cpu_quota[c1 c1 image-c1 name-c1 name-p1 space]",                        // unlimited
		"container_pressure_memory_waiting_seconds_total[c1 c1 image-c1 name-c1 name-p1 space]", // no PSI
		"container_memory_working_set_bytes[p1 p1   name-p1 space]",                             // no cgroup of the pod's own
	} {
		if v, ok := series[absent]; ok {
			t.Errorf("%s is %d", absent, v)
		}
	}
}

func TestRateIsNotKnownBeforeTwoReadings(t *testing.T) {
	var m cpuMeter
	at := time.Unix(100, 0)
	for i, tc := range []struct {
		after time.Duration
		usage uint64
		want  string
	}{
		{0, 1000, "unknown"}, {time.Second, 5e8 + 1000, "500000000"}, {time.Second + time.Millisecond, 9e8, "500000000"},
		{3 * time.Second, 5e8 + 1000, "0"}, {4 * time.Second, 10, "unknown"}, {5 * time.Second, 2e9 + 10, "2000000000"},
	} {
		got := "unknown"
		if rate := m.rateAt(at.Add(tc.after), tc.usage); rate != nil {
			got = fmt.Sprint(*rate)
		}
		if got != tc.want {
			t.Errorf("reading %d: %s, want %s", i, got, tc.want)
		}
	}
}

func TestCgroupOfAPod(t *testing.T) {
	for _, tc := range []struct {
		systemd      bool
		parent, want string
	}{
		{false, "/kubepods/burstable/pod1", "/kubepods/burstable/pod1"},
		{false, "a-b.slice", "/a-b.slice"},
		{true, "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice", "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice"},
		{true, "a-b.slice", "/a.slice/a-b.slice"},
		{true, "cri.slice", "/cri.slice"},
	} {
		s := New(Options{SystemdCgroup: tc.systemd})
		if got := s.cgroupDir(model.Sandbox{Config: model.SandboxConfig{CgroupParent: tc.parent}}); got != tc.want {
			t.Errorf("%q with systemd=%v: %s, want %s", tc.parent, tc.systemd, got, tc.want)
		}
	}
}

func TestACgroupThatHoldsOthersTooIsNoPodsOwn(t *testing.T) {
	for name, tc := range map[string]struct {
		members   []string
		processes string
		own       bool
	}{
		"its containers":          {[]string{"c1", "c2"}, "", true},
		"its containers' scopes":  {[]string{"cri-pouch-c1.scope", "cri-pouch-c2.scope"}, "", true},
		"its holder":              {[]string{"p1", "c1"}, "", true},
		"nothing":                 {nil, "", true},
		"a container of another":  {[]string{"c1", "c4"}, "", false},
		"a pod's folder":          {[]string{"c1", "pod2"}, "", false},
		"processes of its own":    {[]string{"c1"}, "77\n", false},
		"the holder of another":   {[]string{"p2"}, "", false},
		"a beginning of an ID":    {[]string{"c"}, "", false},
		"somebody else's service": {[]string{"sshd.service"}, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			s, mount := newStatsService(""), t.TempDir()
			s.Cgroups = cgrouptree.Mounts{"": mount}
			other := newContainer(model.Container{ID: "c4", SandboxID: "p2"})
			other.listed.Store(true)
			s.index.addContainer(other)
			for _, dir := range append(tc.members, ".") {
				dir = filepath.Join(mount, "shared", dir)
				if err := os.MkdirAll(dir, 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			for file, text := range map[string]string{"cgroup.procs": tc.processes, "memory.current": "123456\n"} {
				if err := os.WriteFile(filepath.Join(mount, "shared", file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			resp, err := s.PodSandboxStats(t.Context(), &runtime.PodSandboxStatsRequest{PodSandboxId: "p1"})
			if err != nil {
				t.Fatal(err)
			}
			want := uint64(2000) // the sum of the containers
			if tc.own {
				want = 123456
			}
			if got := resp.Stats.Linux.Memory.UsageBytes.Value; got != want {
				t.Errorf("the pod uses %d bytes, want %d", got, want)
			}
		})
	}
}
