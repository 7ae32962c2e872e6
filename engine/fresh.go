package engine

import (
	"context"
	"fmt"
	"sync"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
)

// fresh are the backend's keys of snapshots that transactions of the metadata database make. The backend commits them
// before the metadata database does. A collection that reads the one in between takes such a snapshot for garbage, and
// may come to remove it after the commit: so it is spared by every collection that began before the commit was done.
type fresh struct {
	mu   sync.Mutex
	keys map[string]bool // true: the transaction is done
}

func (f *fresh) add(key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.keys == nil {
		f.keys = map[string]bool{}
	}
	f.keys[key] = false
}

// committed notes that the metadata database knows the keys. They are forgotten when the next collection begins.
func (f *fresh) committed(keys []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, k := range keys {
		f.keys[k] = true
	}
}

func (f *fresh) drop(key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.keys, key)
}

// begin forgets, at the start of a collection, what that will see in the metadata database.
func (f *fresh) begin() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for k, done := range f.keys {
		if done {
			delete(f.keys, k)
		}
	}
}

func (f *fresh) has(key string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ok := f.keys[key]
	return ok
}

type preparedKey struct{}

// prepared are the backend's keys of the snapshots that one transaction made.
type prepared struct {
	mu   sync.Mutex
	keys []string
}

// Prepare notes what it makes for a transaction, which may be rolled back.
func (b *overlayBackend) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	p, ok := ctx.Value(preparedKey{}).(*prepared)
	if !ok {
		return b.Snapshotter.Prepare(ctx, key, parent, opts...)
	}
	b.fresh.add(key)
	m, err := b.Snapshotter.Prepare(ctx, key, parent, opts...)
	if err != nil {
		b.fresh.drop(key)
		return nil, err
	}
	p.mu.Lock()
	p.keys = append(p.keys, key)
	p.mu.Unlock()
	return m, nil
}

type collectionKey struct{}

// Remove removes a snapshot, unless it is a collection that wants to and the snapshot's record is just being committed:
// that is errdefs.ErrFailedPrecondition, which the collection skips.
func (b *overlayBackend) Remove(ctx context.Context, key string) error {
	if ctx.Value(collectionKey{}) != nil && b.fresh.has(key) {
		return fmt.Errorf("snapshot %s is just being made: %w", key, errdefs.ErrFailedPrecondition)
	}
	return b.Snapshotter.Remove(ctx, key)
}
