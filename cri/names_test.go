package cri

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// shelf is a store of named things, as names wants it.
type shelf struct {
	mu        sync.Mutex
	made      int
	live      map[string]bool // id -> told
	gate      chan struct{}   // makes wait for it, if set
	err       error
	destroyed chan string
	used      atomic.Bool // reusable answers no
}

func newShelf() *shelf { return &shelf{live: map[string]bool{}, destroyed: make(chan string, 10)} }

func (s *shelf) maker() maker {
	return maker{
		what: "thing", limit: time.Minute,
		make: func(ctx context.Context) (string, error) {
			if s.gate != nil {
				select {
				case <-s.gate:
				case <-ctx.Done():
					return "", ctx.Err()
				}
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.err != nil {
				return "", s.err
			}
			s.made++
			id := fmt.Sprint("id", s.made)
			s.live[id] = false
			return id, nil
		},
		destroy: func(_ context.Context, id string) error {
			s.mu.Lock()
			delete(s.live, id)
			s.mu.Unlock()
			s.destroyed <- id
			return nil
		},
		reusable: func(string) bool { return !s.used.Load() },
		tell: func(id string) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.live[id] = true
		},
	}
}

func (s *shelf) want(t *testing.T, want map[string]bool) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if fmt.Sprint(s.live) != fmt.Sprint(want) {
		t.Errorf("things and whether somebody knows them: %v, want %v", s.live, want)
	}
}

func TestTheSameRequestGetsTheSameObject(t *testing.T) {
	n, s := newNames(time.Minute), newShelf()
	s.gate = make(chan struct{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if id, err := n.create(t.Context(), "a", "digest", s.maker()); id != "id1" || err != nil {
				t.Errorf("got %q, %v", id, err)
			}
		})
	}
	close(s.gate)
	wg.Wait()
	s.want(t, map[string]bool{"id1": true})
}

func TestACreateWhoseClientGaveUpGoesOnUnlistedAndIsFoundByTheRetry(t *testing.T) {
	n, s := newNames(time.Minute), newShelf()
	s.gate = make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := n.create(ctx, "a", "digest", s.maker()); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want context.Canceled", err)
	}
	close(s.gate)
	n.mu.Lock()
	c := n.m["a"]
	n.mu.Unlock()
	<-c.done
	s.want(t, map[string]bool{"id1": false})
	if id, err := n.create(t.Context(), "a", "digest", s.maker()); id != "id1" || err != nil {
		t.Fatalf("retry got %q, %v", id, err)
	}
	s.want(t, map[string]bool{"id1": true})
}

func TestWhatNobodyWasToldOfMakesWayForAnotherRequest(t *testing.T) {
	n, s := newNames(time.Minute), newShelf()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _ = n.create(ctx, "a", "one", s.maker())
	if id, err := n.create(t.Context(), "a", "two", s.maker()); id != "id2" || err != nil {
		t.Fatalf("got %q, %v", id, err)
	}
	s.want(t, map[string]bool{"id2": true})
}

func TestWhatNobodyWasToldOfIsUndoneInTheEnd(t *testing.T) {
	n, s := newNames(time.Millisecond), newShelf()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _ = n.create(ctx, "a", "one", s.maker())
	if id := <-s.destroyed; id != "id1" {
		t.Fatalf("destroyed %q", id)
	}
	if id, err := n.create(t.Context(), "a", "one", s.maker()); id != "id2" || err != nil {
		t.Fatalf("got %q, %v", id, err)
	}
}

func TestAnotherRequestForAKnownNameIsRefused(t *testing.T) {
	n, s := newNames(time.Minute), newShelf()
	if _, err := n.create(t.Context(), "a", "one", s.maker()); err != nil {
		t.Fatal(err)
	}
	if _, err := n.create(t.Context(), "a", "two", s.maker()); !errdefs.IsAlreadyExists(err) {
		t.Fatalf("another digest: got %v, want AlreadyExists", err)
	}
	s.used.Store(true)
	if _, err := n.create(t.Context(), "a", "one", s.maker()); !errdefs.IsAlreadyExists(err) {
		t.Fatalf("the same digest, object in use: got %v, want AlreadyExists", err)
	}
	n.release("a", "id1")
	if id, err := n.create(t.Context(), "a", "two", s.maker()); id != "id2" || err != nil {
		t.Fatalf("after the release: got %q, %v", id, err)
	}
}

func TestAFailedCreateLeavesTheNameFree(t *testing.T) {
	n, s := newNames(time.Minute), newShelf()
	s.err = errors.New("no")
	if _, err := n.create(t.Context(), "a", "one", s.maker()); !errors.Is(err, s.err) {
		t.Fatalf("got %v", err)
	}
	s.err = nil
	if id, err := n.create(t.Context(), "a", "one", s.maker()); id != "id1" || err != nil {
		t.Fatalf("got %q, %v", id, err)
	}
}

func TestAPanicWhileMakingIsAnError(t *testing.T) {
	n, mk := newNames(time.Minute), newShelf().maker()
	mk.make = func(context.Context) (string, error) { panic("x") }
	if _, err := n.create(t.Context(), "a", "one", mk); err == nil {
		t.Fatal("no error")
	}
}

func TestAnAdoptedNameIsKnown(t *testing.T) {
	n, s := newNames(time.Minute), newShelf()
	n.adopt("a", "one", "old")
	if _, err := n.create(t.Context(), "a", "two", s.maker()); !errdefs.IsAlreadyExists(err) {
		t.Fatalf("got %v, want AlreadyExists", err)
	}
	if id, err := n.create(t.Context(), "a", "one", s.maker()); id != "old" || err != nil {
		t.Fatalf("got %q, %v", id, err)
	}
}
