package cri

import (
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/network"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

// The names, labels and units of the metrics are cAdvisor's, whose place they take in the kubelet's /metrics/cadvisor
// (feature gate PodAndContainerStatsFromCRI), so that dashboards and alerts go on working. CRI carries whole numbers only:
// seconds are rounded down.

// baseLabels are the first labels of every metric. A pod's own metrics have neither container nor image.
var baseLabels = []string{"id", "name", "image", "container", "pod", "namespace"}

// sample is one value of a metric, with the values of its further labels.
type sample struct {
	value  uint64
	labels []string
}

// family is a metric: how it is called and how it is read. Both what CRI is told of it and its values come from here, so
// that they cannot differ.
type family struct {
	name, help string
	kind       runtime.MetricType
	labels     []string // further ones
	// read gives the samples of a container or, with inPod, of a pod's cgroup; network families have traffic instead.
	read    func(*measured) []sample
	inPod   bool
	traffic func(network.Interface) uint64
}

// measured is what the metrics of a container or of a pod's cgroup are read from.
type measured struct {
	stats     task.Stats
	container *containerReading // nil for a pod
	files     openFiles         // of a container
	place     *filesystem       // where the writable layer lies; nil for a pod, and where it cannot be looked at
}

// one makes a family's read of a single figure.
func one(get func(task.Stats) uint64) func(*measured) []sample {
	return func(m *measured) []sample { return []sample{{value: get(m.stats)}} }
}

// seconds does so for a figure in nanoseconds.
func seconds(get func(task.Stats) uint64) func(*measured) []sample {
	return one(func(st task.Stats) uint64 { return get(st) / 1e9 })
}

// families are all metrics, in the order in which they are told and sent.
func families() []family {
	var all []family
	for _, part := range [][]family{cpuFamilies(), memoryFamilies(), diskFamilies(), processFamilies(), limitFamilies(), pressureFamilies(), networkFamilies()} {
		all = append(all, part...)
	}
	return all
}

const (
	counter = runtime.MetricType_COUNTER
	gauge   = runtime.MetricType_GAUGE
)

// messages gives the family's samples as CRI's, with the values of baseLabels before the samples' own.
func (f family) messages(base []string, samples []sample) []*runtime.Metric {
	var out []*runtime.Metric
	for _, s := range samples {
		labels := append(append(make([]string, 0, len(base)+len(s.labels)), base...), s.labels...)
		out = append(out, &runtime.Metric{Name: f.name, MetricType: f.kind, LabelValues: labels, Value: number(s.value)})
	}
	return out
}
