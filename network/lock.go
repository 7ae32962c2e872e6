package network

import (
	"context"
	"fmt"
	"sync"
)

// keyedLock is one lock for each key, made on first use and dropped after the last. The zero value is ready.
type keyedLock struct {
	mu   sync.Mutex
	held map[string]*turn
}

type turn struct {
	slot  chan struct{}
	users int
}

// lock waits for the key's turn, or for the end of ctx; unlock must be called when err is nil.
func (l *keyedLock) lock(ctx context.Context, key string) (unlock func(), err error) {
	l.mu.Lock()
	if l.held == nil {
		l.held = map[string]*turn{}
	}
	t := l.held[key]
	if t == nil {
		t = &turn{slot: make(chan struct{}, 1)}
		l.held[key] = t
	}
	t.users++
	l.mu.Unlock()

	leave := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if t.users--; t.users == 0 {
			delete(l.held, key)
		}
	}
	select {
	case t.slot <- struct{}{}:
		return func() { <-t.slot; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, fmt.Errorf("wait for other network work on sandbox %s: %w", key, ctx.Err())
	}
}
