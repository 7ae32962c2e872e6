package integration

import (
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// podStats is PodSandboxStats of one pod.
func podStats(t *testing.T, p *harness.Pod) *runtime.PodSandboxStats {
	t.Helper()
	r, err := p.Node.Daemon.Runtime.PodSandboxStats(harness.Context(t), &runtime.PodSandboxStatsRequest{PodSandboxId: p.ID})
	if err != nil {
		t.Fatalf("PodSandboxStats: %v", err)
	}
	return r.Stats
}

func TestStatsOfAPodCountItsCgroupAndItsNetwork(t *testing.T) {
	n := harness.Start(t)
	p := n.RunPod(t, harness.OwnCgroup(t, n))
	script := harness.Sh("x=$(head -c 8000000 /dev/zero | tr '\\0' x); echo ready; nc -l -p 8000 >/dev/null; echo got; sleep 1000; :")
	c := p.Run(t, "app", script)
	other := p.Run(t, "other")
	c.AwaitLog(t, "ready")
	before := podStats(t, p)
	l := before.Linux
	if before.Attributes.Id != p.ID || before.Attributes.Metadata.Uid != p.Config.Metadata.Uid || before.Attributes.Labels["io.kubernetes.pod.uid"] == "" {
		t.Errorf("attributes %v", before.Attributes)
	}
	if len(l.Containers) != 2 || l.Containers[0].Attributes.Id != c.ID || l.Containers[1].Attributes.Id != other.ID {
		t.Errorf("containers %v", l.Containers)
	}
	if l.Memory.WorkingSetBytes.GetValue() < 8000000 || l.Cpu.UsageCoreNanoSeconds.GetValue() == 0 || l.Process.ProcessCount.GetValue() < 2 {
		t.Errorf("memory %v, cpu %v, processes %v", l.Memory, l.Cpu, l.Process)
	}
	if d := l.GetNetwork().GetDefaultInterface(); d.GetName() != "eth0" || len(l.Network.Interfaces) != 0 {
		t.Fatalf("network %v", l.Network)
	}

	const sent = 300000
	var conn net.Conn
	harness.Eventually(t, "the server listens", func() (ok bool) {
		var err error
		conn, err = net.Dial("tcp", net.JoinHostPort(p.IP(t), "8000"))
		return err == nil
	})
	if _, err := conn.Write(make([]byte, sent)); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	c.AwaitLog(t, "got")
	after := podStats(t, p).Linux
	if got := after.Network.DefaultInterface.RxBytes.Value - l.Network.DefaultInterface.RxBytes.Value; got < sent || got > 2*sent {
		t.Errorf("%d bytes were sent to the pod, %d counted", sent, got)
	}
	if after.Network.DefaultInterface.TxBytes.Value <= l.Network.DefaultInterface.TxBytes.Value {
		t.Error("the pod's answers are not counted")
	}
	if after.Cpu.UsageCoreNanoSeconds.Value < l.Cpu.UsageCoreNanoSeconds.Value {
		t.Errorf("the CPU time went back: %v", after.Cpu)
	}
	harness.Eventually(t, "the rate is known", func() bool { return podStats(t, p).Linux.Cpu.UsageNanoCores != nil })
	other.Stop(t, 0)
	if got := podStats(t, p).Linux.Containers; len(got) != 1 || got[0].Attributes.Id != c.ID {
		t.Errorf("an ended container is among %v", got)
	}
	// The daemon holds nothing that is needed for it.
	n.KillDaemon(t)
	n.StartDaemon(t)
	if again := podStats(t, p).Linux; again.Cpu.UsageCoreNanoSeconds.Value < after.Cpu.UsageCoreNanoSeconds.Value || again.Network == nil {
		t.Errorf("after a restart: %v", again)
	}
}

func TestStatsOfPodsThatShareACgroupAreTheirOwn(t *testing.T) {
	n := harness.Start(t)
	big, small := n.RunPod(t), n.RunPod(t)
	c := big.Run(t, "app", harness.Sh("x=$(head -c 30000000 /dev/zero | tr '\\0' x); echo ready; sleep 1000; :"))
	c.AwaitLog(t, "ready")
	small.Run(t, "app")
	if got := podStats(t, big).Linux.Memory.WorkingSetBytes.Value; got < 30000000 {
		t.Errorf("the pod with 30 MB has %d bytes", got)
	}
	if got := podStats(t, small).Linux.Memory.WorkingSetBytes.Value; got == 0 || got > 20000000 {
		t.Errorf("the pod beside it has %d bytes", got)
	}
}

func TestStatsOfPodsWithoutContainersOrNetwork(t *testing.T) {
	n := harness.Start(t)
	empty := n.RunPod(t, harness.OwnCgroup(t, n))
	st := podStats(t, empty).Linux
	if st.Process.ProcessCount.GetValue() != 0 || len(st.Containers) != 0 || st.Cpu.Timestamp == 0 || st.GetNetwork().GetDefaultInterface().GetName() != "eth0" {
		t.Errorf("an empty pod: %v", st)
	}
	host := n.RunPod(t, func(c *runtime.PodSandboxConfig) {
		c.Hostname = ""
		c.Linux.SecurityContext.NamespaceOptions.Network = runtime.NamespaceMode_NODE
	})
	if st := podStats(t, host).Linux; st.Network != nil {
		t.Errorf("on the host network: %v", st.Network)
	}
	if _, err := n.Daemon.Runtime.StopPodSandbox(harness.Context(t), &runtime.StopPodSandboxRequest{PodSandboxId: empty.ID}); err != nil {
		t.Fatal(err)
	}
	if st := podStats(t, empty).Linux; st.Network != nil || st.Cpu.Timestamp == 0 {
		t.Errorf("a stopped pod: %v", st)
	}
	list, err := n.Daemon.Runtime.ListPodSandboxStats(harness.Context(t), &runtime.ListPodSandboxStatsRequest{})
	if err != nil || len(list.Stats) != 1 || list.Stats[0].Attributes.Id != host.ID {
		t.Errorf("listed are %v, %v", list, err)
	}
	for id, code := range map[string]codes.Code{"": codes.InvalidArgument, "nowhere": codes.NotFound} {
		_, err := n.Daemon.Runtime.PodSandboxStats(harness.Context(t), &runtime.PodSandboxStatsRequest{PodSandboxId: id})
		wantCode(t, err, code, "sandbox")
	}
}

func TestStatsAreShownOnTheCommandLine(t *testing.T) {
	n := harness.Start(t)
	p := n.RunPod(t, harness.OwnCgroup(t, n))
	c := p.Run(t, "app", harness.Sh("while :; do :; done"))
	show := func(args ...string) string {
		t.Helper()
		out, err := exec.Command(n.Binary, append([]string{"--socket", n.Socket(), "stats", "--span", "500ms"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("stats %v: %v: %s", args, err, out)
		}
		return string(out)
	}
	for _, out := range []string{show(), show("app"), show("--pods"), show("--pods", p.Config.Metadata.Name)} {
		lines := strings.Split(strings.TrimSpace(out), "\n")
		if len(lines) != 2 || !strings.Contains(lines[1], p.Config.Metadata.Name) || strings.Contains(lines[1], " 0.0%") || !strings.Contains(lines[1], "%") {
			t.Errorf("a container that is busy shows as\n%s", out)
		}
	}
	c.Stop(t, 0)
	if out := show(); strings.Contains(out, c.ID[:12]) {
		t.Errorf("an ended container shows as\n%s", out)
	}
}

// A pod with CAP_NET_ADMIN names its interfaces as it likes, also so that no message could carry the name.
func TestAPodsInterfacesCannotBreakTheStatsOfOthers(t *testing.T) {
	n := harness.Start(t)
	p, victim := n.RunPod(t), n.RunPod(t)
	inPod, err := netns.GetFromPath(filepath.Join(n.StateDir(), "ns", p.ID, "net"))
	if err != nil {
		t.Fatal(err)
	}
	defer inPod.Close()
	links, err := netlink.NewHandleAt(inPod)
	if err != nil {
		t.Fatal(err)
	}
	defer links.Close()
	for _, name := range []string{"bad\xff", "good"} {
		if err := links.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "peer" + name[:1]}); err != nil {
			t.Fatal(err)
		}
	}
	st := podStats(t, p).Linux.Network
	var names []string
	for _, i := range st.Interfaces {
		names = append(names, i.Name)
	}
	if st.DefaultInterface.Name != "eth0" || slices.Contains(names, "lo") || !slices.Contains(names, "good") || len(names) != 3 {
		t.Errorf("interfaces %q", names)
	}
	list, err := n.Daemon.Runtime.ListPodSandboxStats(harness.Context(t), &runtime.ListPodSandboxStatsRequest{})
	if err != nil || len(list.Stats) != 2 || list.Stats[1].Attributes.Id != victim.ID {
		t.Errorf("%v, %v", list, err)
	}
	if _, err := n.Daemon.Runtime.ListPodSandboxMetrics(harness.Context(t), &runtime.ListPodSandboxMetricsRequest{}); err != nil {
		t.Error(err)
	}
}

func TestMetricsAreDescribedUniqueAndTrue(t *testing.T) {
	n := harness.Start(t)
	p := n.RunPod(t, harness.OwnCgroup(t, n))
	c := p.Run(t, "app", func(c *runtime.ContainerConfig) {
		c.Linux.Resources = &runtime.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, CpuPeriod: 100000, CpuQuota: 50000, CpuShares: 100}
	})
	descriptors, err := n.Daemon.Runtime.ListMetricDescriptors(harness.Context(t), &runtime.ListMetricDescriptorsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string][]string{}
	for _, d := range descriptors.Descriptors {
		keys[d.Name] = d.LabelKeys
	}
	resp, err := n.Daemon.Runtime.ListPodSandboxMetrics(harness.Context(t), &runtime.ListPodSandboxMetricsRequest{})
	if err != nil || len(resp.PodMetrics) != 1 || resp.PodMetrics[0].PodSandboxId != p.ID || len(resp.PodMetrics[0].ContainerMetrics) != 1 || resp.PodMetrics[0].ContainerMetrics[0].ContainerId != c.ID {
		t.Fatalf("%v, %v", resp, err)
	}
	all := append(slices.Clone(resp.PodMetrics[0].Metrics), resp.PodMetrics[0].ContainerMetrics[0].Metrics...)
	series := map[string]uint64{}
	for _, m := range all {
		if len(keys[m.Name]) != len(m.LabelValues) || len(m.LabelValues) == 0 {
			t.Errorf("%s: labels %v of %v", m.Name, m.LabelValues, keys[m.Name])
			continue
		}
		labels := map[string]string{}
		for i, k := range keys[m.Name] {
			labels[k] = m.LabelValues[i]
		}
		id := fmt.Sprint(m.Name, " ", labels)
		if _, twice := series[id]; twice {
			t.Errorf("%s is there twice", id)
		}
		if labels["pod"] != p.Config.Metadata.Name || labels["namespace"] != "lab" || labels["container"] == "app" && labels["image"] != harness.Busybox {
			t.Errorf("labels of %s", id)
		}
		series[id] = m.Value.Value
		series[m.Name+"/"+labels["container"]] = m.Value.Value
	}
	for name, min := range map[string]uint64{
		"container_memory_working_set_bytes/app": 1000, "container_memory_working_set_bytes/": 1000, "container_processes/app": 1, "container_threads/app": 1,
		"container_start_time_seconds/app": 1, "container_network_receive_bytes_total/": 0, "container_fs_usage_bytes/app": 0, "container_fs_limit_bytes/app": 1,
		"container_file_descriptors/app": 1, "container_sockets/app": 0, "container_threads_max/app": 0, "container_cpu_cfs_periods_total/app": 0,
	} {
		if got, ok := series[name]; !ok || got < min {
			t.Errorf("%s is %d (%v)", name, got, ok)
		}
	}
	for name, want := range map[string]uint64{
		"container_spec_memory_limit_bytes/app": 64 << 20, "container_spec_cpu_quota/app": 50000, "container_spec_cpu_period/app": 100000, "container_spec_cpu_shares/app": 100,
	} {
		if series[name] != want {
			t.Errorf("%s is %d, want %d", name, series[name], want)
		}
	}
}
