package bench

import (
	"slices"
	"sync"
	"time"
)

// figures collects samples by operation and runtime.
type figures struct {
	mu      sync.Mutex
	order   []string // operations as they came
	samples map[string]map[string][]float64
	units   map[string]string
}

func newFigures() *figures {
	return &figures{samples: map[string]map[string][]float64{}, units: map[string]string{}}
}

// add notes how long an operation took.
func (f *figures) add(runtime, op string, d time.Duration) {
	f.addValue(runtime, op, "ms", float64(d.Nanoseconds())/1e6)
}

// addValue notes a figure of another unit.
func (f *figures) addValue(runtime, op, unit string, value float64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.samples[op] == nil {
		f.samples[op], f.units[op] = map[string][]float64{}, unit
		f.order = append(f.order, op)
	}
	f.samples[op][runtime] = append(f.samples[op][runtime], value)
}

// summary gives the medians, in the order in which the operations first came.
func (f *figures) summary() []Figure {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []Figure
	for _, op := range f.order {
		one := Figure{Name: op, Unit: f.units[op], Medians: map[string]float64{}, Samples: map[string]int{}}
		for runtime, values := range f.samples[op] {
			one.Medians[runtime], one.Samples[runtime] = median(values), len(values)
		}
		all = append(all, one)
	}
	return all
}

// median is the middle one of values, or the mean of the two in the middle; 0 for none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}
