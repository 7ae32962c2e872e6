package cri

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/cri-pouch/cri-pouch/snapshot"
)

func TestALayerThatTakesLongToMeasureHoldsUpNothing(t *testing.T) {
	var m diskMeter
	release, runs := make(chan struct{}), 0
	slow := func(context.Context) (snapshot.FSUsage, error) {
		runs++
		<-release
		return snapshot.FSUsage{Bytes: uint64(runs)}, nil
	}
	// Not measured yet: nothing is told, and nothing fails; a second reader begins no second measurement.
	for range 3 {
		if use, err := m.read(t.Context(), time.Millisecond, slow); use != nil || err != nil {
			t.Fatalf("%v, %v", use, err)
		}
	}
	release <- struct{}{}
	use, err := m.read(t.Context(), time.Minute, func(context.Context) (snapshot.FSUsage, error) { return snapshot.FSUsage{Bytes: 7}, nil })
	if err != nil || use == nil || runs != 1 || use.Bytes != 1 && use.Bytes != 7 {
		t.Fatalf("%v, %v after %d runs", use, err, runs)
	}
	if use, err = m.read(t.Context(), time.Minute, func(context.Context) (snapshot.FSUsage, error) { return snapshot.FSUsage{Bytes: 7}, nil }); err != nil || use.Bytes != 7 {
		t.Fatalf("%v, %v", use, err)
	}
	// Measured before: that figure stands until the new one is there.
	if use, err = m.read(t.Context(), time.Millisecond, slow); err != nil || use.Bytes != 7 {
		t.Errorf("%v, %v", use, err)
	}
	close(release)
}

func TestMeasuringFails(t *testing.T) {
	var m diskMeter
	broken := errors.New("broken")
	if use, err := m.read(t.Context(), time.Minute, func(context.Context) (snapshot.FSUsage, error) { return snapshot.FSUsage{}, broken }); use != nil || !errors.Is(err, broken) {
		t.Errorf("%v, %v", use, err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	release := make(chan struct{})
	defer close(release)
	_, err := m.read(over, time.Minute, func(context.Context) (snapshot.FSUsage, error) { <-release; return snapshot.FSUsage{}, nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the call is over, but the error is %v", err)
	}
}
