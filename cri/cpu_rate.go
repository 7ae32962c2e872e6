package cri

import (
	"sync"
	"time"
)

// minRateSpan is the shortest span that a rate is computed over.
const minRateSpan = 100 * time.Millisecond

// cpuMeter turns readings of a growing counter into a rate.
type cpuMeter struct {
	mu    sync.Mutex
	at    time.Time
	usage uint64  // ns
	rate  *uint64 // ns per second; nil until two readings are there
}

// rateAt is the CPU use between the reading before and this one, in billionths of a core. It is nil for the first reading
// and after the counter was set back: what is not known is not reported as idle.
func (m *cpuMeter) rateAt(at time.Time, usage uint64) *uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.at.IsZero() || usage < m.usage {
		m.at, m.usage, m.rate = at, usage, nil
		return nil
	}
	elapsed := at.Sub(m.at)
	if elapsed < minRateSpan { // two readers at once: too short a span says nothing
		return m.rate
	}
	rate := uint64(float64(usage-m.usage) / elapsed.Seconds())
	m.at, m.usage, m.rate = at, usage, &rate
	return m.rate
}
