package kubelet

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/cri-pouch/cri-pouch/integration/kubelet/cluster"
)

// summary is what the tests read of the kubelet's /stats/summary.
type summary struct {
	Pods []struct {
		PodRef  struct{ Name string }
		CPU     usage `json:"cpu"`
		Memory  usage
		Network *struct {
			Name    string
			RxBytes *uint64
		}
		ProcessStats *struct {
			Count uint64 `json:"process_count"`
		} `json:"process_stats"`
		EphemeralStorage *usage `json:"ephemeral-storage"`
		Containers       []struct {
			Name   string
			CPU    usage `json:"cpu"`
			Memory usage
			Rootfs usage
			Swap   *usage
		}
	}
}

type usage struct {
	UsageCoreNanoSeconds, UsageNanoCores, WorkingSetBytes, UsageBytes, RSSBytes, PageFaults, AvailableBytes, CapacityBytes, UsedBytes, InodesUsed *uint64
}

// fromKubelet gets a path of the kubelet's own server.
func (n *node) fromKubelet(t testing.TB, path string) []byte {
	t.Helper()
	body, err := n.Client.CoreV1().RESTClient().Get().Resource("nodes").Name(n.Node()).SubResource("proxy").Suffix(path).DoRaw(limited(t))
	if err != nil {
		t.Fatalf("the kubelet's %s: %v", path, err)
	}
	return body
}

// cAdvisor finds no pods of a runtime that it does not know by its socket. With PodAndContainerStatsFromCRI the kubelet does without,
// so everything that eviction, kubectl top and Prometheus read has to come from CRI; with CRIListStreaming it lists by streams.
func TestKubeletHasItsStatsFromCRI(t *testing.T) {
	n := start(t)
	usual := n.Kubelet
	set := maps.Clone(usual.Set)
	if set == nil {
		set = map[string]any{}
	}
	set["featureGates"] = map[string]bool{"PodAndContainerStatsFromCRI": true, "CRIListStreaming": true}
	said, err := os.Stat(n.KubeletLog())
	if err != nil {
		t.Fatal(err)
	}
	if err := n.RestartKubelet(limited(t), cluster.KubeletOptions{Set: set}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.RestartKubelet(limited(t), usual); err != nil {
			t.Error(err)
		}
	})
	app := sh("app", app1, "head -c 5000000 /dev/zero >/file; x=$(head -c 20000000 /dev/zero | tr '\\0' x); echo ready; sleep infinity; :")
	p := n.run(t, podOf("stats", []corev1.Container{app, sh("agent", app1, "sleep infinity")}))
	p.awaitLog(t, "app", "ready\n")

	// No event tells when the kubelet has asked twice, which it needs for rates.
	for deadline := time.Now().Add(90 * time.Second); ; time.Sleep(500 * time.Millisecond) {
		var s summary
		if err := json.Unmarshal(n.fromKubelet(t, "stats/summary"), &s); err != nil {
			t.Fatal(err)
		}
		missing := s.lacks(p.name)
		if missing == "" {
			break
		}
		if time.Now().After(deadline) {
			t.Errorf("the summary lacks %s of the pod: %s", missing, n.fromKubelet(t, "stats/summary"))
			break
		}
	}

	pod := `pod="` + p.name + `"`
	for path, series := range map[string][]string{
		"metrics/cadvisor": {
			`container_memory_working_set_bytes{container="app"`, `container_cpu_usage_seconds_total{container="agent"`, `container_processes{container="app"`,
			`container_network_receive_bytes_total{container=""`, `container_fs_usage_bytes{container="app"`,
		},
		"metrics/resource": {`container_cpu_usage_seconds_total{container="app"`, `container_memory_working_set_bytes{container="app"`, `pod_memory_working_set_bytes{`, `pod_cpu_usage_seconds_total{`},
	} {
		body := string(n.fromKubelet(t, path))
		for _, want := range series {
			found := false
			for line := range strings.Lines(body) {
				found = found || strings.HasPrefix(line, want) && strings.Contains(line, pod)
			}
			if !found {
				t.Errorf("/%s has no %s… with %s", path, want, pod)
			}
		}
	}
	log, err := os.ReadFile(n.KubeletLog())
	if err != nil {
		t.Fatal(err)
	}
	for _, complaint := range []string{"falling back to", "does not support PodSandboxStats", "Error reading MetricDescriptors", "Failed to get pod metrics", "Error getting CRI prometheus metric"} {
		if i := strings.Index(string(log[said.Size():]), complaint); i >= 0 {
			t.Errorf("the kubelet says %q", complaint)
		}
	}
}

// atLeast is a figure and what it has to be.
type atLeast struct {
	value *uint64
	least uint64
}

// lacks names what the summary has not, or not plausibly, of the test's pod.
func (s summary) lacks(name string) string {
	for _, p := range s.Pods {
		if p.PodRef.Name != name {
			continue
		}
		switch {
		case p.Network == nil || p.Network.Name != "eth0" || p.Network.RxBytes == nil:
			return "network"
		case p.ProcessStats == nil || p.ProcessStats.Count < 2:
			return "processes"
		case p.EphemeralStorage == nil || p.EphemeralStorage.UsedBytes == nil || *p.EphemeralStorage.UsedBytes < 5000000:
			return "ephemeral storage"
		case len(p.Containers) != 2:
			return fmt.Sprintf("containers (there are %d)", len(p.Containers))
		}
		figures := map[string]atLeast{
			"cpu": {p.CPU.UsageCoreNanoSeconds, 1}, "cpu rate": {p.CPU.UsageNanoCores, 0}, "memory": {p.Memory.WorkingSetBytes, 20000000},
			"memory usage": {p.Memory.UsageBytes, 20000000}, "rss": {p.Memory.RSSBytes, 20000000}, "faults": {p.Memory.PageFaults, 1},
		}
		for _, c := range p.Containers {
			memory, disk := uint64(1), uint64(0)
			if c.Name == "app" {
				memory, disk = 20000000, 5000000
			}
			maps.Copy(figures, map[string]atLeast{
				c.Name + "'s cpu": {c.CPU.UsageCoreNanoSeconds, 1}, c.Name + "'s cpu rate": {c.CPU.UsageNanoCores, 0}, c.Name + "'s memory": {c.Memory.WorkingSetBytes, memory},
				c.Name + "'s layer": {c.Rootfs.UsedBytes, disk}, c.Name + "'s inodes": {c.Rootfs.InodesUsed, 0},
				c.Name + "'s disk": {c.Rootfs.CapacityBytes, 1}, c.Name + "'s free disk": {c.Rootfs.AvailableBytes, 1},
			})
		}
		for what, f := range figures {
			if f.value == nil || *f.value < f.least {
				return what
			}
		}
		return ""
	}
	return "everything"
}
