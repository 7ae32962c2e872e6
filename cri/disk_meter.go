package cri

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/cri-pouch/cri-pouch/internal/flight"
	"github.com/cri-pouch/cri-pouch/snapshot"
)

const (
	// diskWait is how long stats wait for the measurement of one writable layer. A container with millions of files must
	// hold up neither its own CPU and memory figures nor those of others: until it is measured, the figure before stands.
	diskWait = time.Second
	// diskLimit bounds one measurement.
	diskLimit = 10 * time.Minute
)

// diskMeter measures a container's writable layer in the background, once at a time.
type diskMeter struct {
	flight flight.Flight
	last   atomic.Pointer[snapshot.FSUsage]
}

// read gives what measure gives or, where that takes longer than wait, the figure before it; nil where there is none yet.
func (m *diskMeter) read(ctx context.Context, wait time.Duration, measure func(context.Context) (snapshot.FSUsage, error)) (*snapshot.FSUsage, error) {
	waiting, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	err := m.flight.Do(waiting, diskLimit, func(ctx context.Context) error {
		use, err := measure(ctx)
		if err == nil {
			m.last.Store(&use)
		}
		return err
	})
	if err != nil && (waiting.Err() == nil || ctx.Err() != nil) {
		return nil, err
	}
	return m.last.Load(), nil
}
