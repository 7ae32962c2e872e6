package snapshot

import (
	"context"
	"sync"
)

// locker locks by key. The zero value is not ready; see newLocker.
type locker struct {
	mu sync.Mutex
	m  map[string]*lock
}

type lock struct {
	held    chan struct{} // has one element while locked
	waiting int           // those that hold or want it
}

func newLocker() *locker { return &locker{m: map[string]*lock{}} }

// lock waits until key is free or ctx ends, and gives the function that frees it.
func (k *locker) lock(ctx context.Context, key string) (func(), error) {
	k.mu.Lock()
	l := k.m[key]
	if l == nil {
		l = &lock{held: make(chan struct{}, 1)}
		k.m[key] = l
	}
	l.waiting++
	k.mu.Unlock()
	select {
	case l.held <- struct{}{}:
		return func() {
			<-l.held
			k.leave(key, l)
		}, nil
	case <-ctx.Done():
		k.leave(key, l)
		return nil, context.Cause(ctx)
	}
}

// tryLock locks key if it is free at this moment.
func (k *locker) tryLock(key string) (free func(), ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.m[key] != nil {
		return nil, false
	}
	l := &lock{held: make(chan struct{}, 1), waiting: 1}
	l.held <- struct{}{}
	k.m[key] = l
	return func() {
		<-l.held
		k.leave(key, l)
	}, true
}

func (k *locker) leave(key string, l *lock) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if l.waiting--; l.waiting == 0 {
		delete(k.m, key)
	}
}
