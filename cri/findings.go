package cri

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// findingKind says what recovery has not understood. The kinds are part of the command line and the metric.
type findingKind string

const (
	// sandboxRecord: the record of a sandbox cannot be read.
	sandboxRecord findingKind = "sandbox-record"
	// containerRecord: the record of a container cannot be read.
	containerRecord findingKind = "container-record"
	// lostSandbox: a container's sandbox has no record.
	lostSandbox findingKind = "lost-sandbox"
	// unknownTask: the shim holds a container that has no record.
	unknownTask findingKind = "unknown-task"
	// damagedStore: a store whose databases were damaged was set aside; its ID is the folder.
	damagedStore findingKind = "damaged-store"
)

// remedies says for each kind what a repair does. Everything that a kind names is kept until then.
func remedies() map[findingKind]string {
	return map[findingKind]string{
		sandboxRecord:   "end the containers that are known to be the sandbox's, release its network and namespaces, remove its record",
		containerRecord: "end the container, remove its root filesystem, its bundle and its record",
		lostSandbox:     "end the container, remove its root filesystem, its bundle and its record",
		unknownTask:     "end the container and remove its bundle",
		damagedStore:    "remove the folder, once no container runs from it any more",
	}
}

// finding is one object that recovery has left alone.
type finding struct {
	kind    findingKind
	id      string // of the sandbox or container
	sandbox string // that a container belongs to, where that is known
	running bool   // the shim holds processes of it
	why     string
}

func (f finding) String() string {
	return fmt.Sprintf("%s %s: %s", f.kind, f.id, f.why)
}

// findings are what recovery has left alone, by ID, until somebody has it repaired.
type findings struct {
	mu    sync.Mutex
	m     map[string]finding
	gauge *prometheus.GaugeVec
}

// newFindings registers the number of findings with r; nil: nowhere.
func newFindings(r prometheus.Registerer) *findings {
	f := &findings{m: map[string]finding{}, gauge: prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "cri_pouch_findings", Help: "Sandboxes and containers that recovery has not understood and left alone, by kind: see cri-pouch repair.",
	}, []string{"kind"})}
	for kind := range remedies() {
		f.gauge.WithLabelValues(string(kind))
	}
	if r != nil {
		r.MustRegister(f.gauge)
	}
	return f
}

func (f *findings) add(found finding) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.drop(found.id)
	f.m[found.id] = found
	f.gauge.WithLabelValues(string(found.kind)).Inc()
}

// remove forgets a finding that was repaired.
func (f *findings) remove(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.drop(id)
}

func (f *findings) drop(id string) {
	if old, ok := f.m[id]; ok {
		delete(f.m, id)
		f.gauge.WithLabelValues(string(old.kind)).Dec()
	}
}

// setRunning notes that the shim holds processes of a finding, if id is one.
func (f *findings) setRunning(id string) (known bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	found, known := f.m[id]
	if known {
		found.running = true
		f.m[id] = found
	}
	return known
}

func (f *findings) get(id string) (finding, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	found, ok := f.m[id]
	return found, ok
}

// all gives the findings by kind and ID.
func (f *findings) all() []finding {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.SortedFunc(maps.Values(f.m), func(a, b finding) int {
		return strings.Compare(string(a.kind)+a.id, string(b.kind)+b.id)
	})
}

// ofSandbox gives the containers that are known to belong to a sandbox.
func (f *findings) ofSandbox(id string) []finding {
	return slices.DeleteFunc(f.all(), func(found finding) bool { return found.sandbox != id || id == "" })
}

// anySandbox says whether there may be sandboxes that no index knows: what looks as if it were nobody's may be theirs.
func (f *findings) anySandbox() bool {
	return slices.ContainsFunc(f.all(), func(found finding) bool { return found.kind == sandboxRecord || found.kind == lostSandbox })
}
