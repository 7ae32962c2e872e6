package shim

import (
	"context"
	"sync"
	"testing"
)

func TestATurnIsLeftToOthersForAWhile(t *testing.T) {
	s := &Server{starts: make(chan struct{}, 1)}
	ctx := context.Background()
	mine, err := s.turn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if release, err := s.slot(gone); err == nil {
		release()
		t.Fatal("there are two turns at once")
	}
	mine.aside(func() {
		release, err := s.slot(ctx)
		if err != nil {
			t.Fatal(err)
		}
		release()
	})
	if len(s.starts) != 1 {
		t.Error("it was not taken again")
	}
	mine.end()
	if len(s.starts) != 0 {
		t.Error("it is kept")
	}
}

// A creation that takes too long ends its turn while its hooks run: nothing waits for a slot, and none is lost.
func TestATurnThatEndsMeanwhile(t *testing.T) {
	s := &Server{starts: make(chan struct{}, 1)}
	var others sync.WaitGroup
	for range 100 {
		mine, err := s.turn(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		mine.aside(func() {
			release, err := s.slot(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			others.Go(mine.end)
			others.Go(release)
		})
		others.Wait()
		if len(s.starts) != 0 {
			t.Fatal("a slot is lost")
		}
	}
}
