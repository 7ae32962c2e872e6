package shim

import (
	"context"
	"fmt"
	"sync"
)

// slot waits for its turn to start something.
func (s *Server) slot(ctx context.Context) (release func(), err error) {
	t, err := s.turn(ctx)
	if err != nil {
		return nil, err
	}
	return t.end, nil
}

// turn is a slot that can be left to others for a while.
type turn struct {
	s    *Server
	over chan struct{}

	mu  sync.Mutex
	has bool
}

// turn waits for a slot as slot does.
func (s *Server) turn(ctx context.Context) (*turn, error) {
	select {
	case s.starts <- struct{}{}:
		return &turn{s: s, over: make(chan struct{}), has: true}, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("too many starts at once: %w", ctx.Err())
	}
}

// end gives the slot back; it must be called once.
func (t *turn) end() {
	close(t.over)
	t.give()
}

// aside runs what may take long and hardly needs a CPU without the slot, and waits for one again. A turn that ends meanwhile is
// not waited for.
func (t *turn) aside(run func()) {
	t.give()
	defer t.get()
	run()
}

func (t *turn) give() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.has {
		<-t.s.starts
		t.has = false
	}
}

func (t *turn) get() {
	select {
	case t.s.starts <- struct{}{}:
	case <-t.over:
		return
	}
	t.mu.Lock()
	t.has = true
	t.mu.Unlock()
	select {
	case <-t.over: // end may have come before has was true
		t.give()
	default:
	}
}
