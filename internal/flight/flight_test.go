package flight

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestCallersJoinOneRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f Flight
		var runs atomic.Int32
		gate := make(chan struct{})
		want := errors.New("result")
		for range 10 {
			go func() {
				err := f.Do(t.Context(), time.Minute, func(context.Context) error {
					runs.Add(1)
					<-gate
					return want
				})
				if !errors.Is(err, want) {
					t.Errorf("got %v, want %v", err, want)
				}
			}()
		}
		synctest.Wait() // all ten wait for the one run
		if n := runs.Load(); n != 1 {
			t.Errorf("%d runs for ten callers at once", n)
		}
		close(gate)
		synctest.Wait()
		if err := f.Do(t.Context(), time.Minute, func(context.Context) error { runs.Add(1); return nil }); err != nil || runs.Load() != 2 {
			t.Errorf("a caller that comes later: %v, %d runs", err, runs.Load())
		}
	})
}

func TestACallerThatGivesUpDoesNotCutTheWork(t *testing.T) {
	var f Flight
	ctx, cancel := context.WithCancel(t.Context())
	started, finish := make(chan struct{}), make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		<-started
		cancel()
	}()
	err := f.Do(ctx, time.Minute, func(ctx context.Context) error {
		close(started)
		<-finish
		ended <- ctx.Err()
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want context.Canceled", err)
	}
	close(finish)
	if err := <-ended; err != nil {
		t.Fatalf("the work's context ended: %v", err)
	}
}

func TestTheWorkIsBounded(t *testing.T) {
	var f Flight
	err := f.Do(t.Context(), time.Millisecond, func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v, want DeadlineExceeded", err)
	}
}

func TestAPanicIsAnError(t *testing.T) {
	var f Flight
	if err := f.Do(t.Context(), time.Minute, func(context.Context) error { panic("x") }); err == nil {
		t.Fatal("no error")
	}
}
