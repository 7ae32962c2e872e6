package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
)

// Update runs fn in one transaction of the metadata database: what fn does through the stores with the context it gets
// is there as a whole or not at all. fn must use that context only; a store called with another one deadlocks.
// Snapshots that a failed fn made are removed.
func (e *Engine) Update(ctx context.Context, fn func(ctx context.Context) error) error {
	made := &prepared{}
	ctx = context.WithValue(e.With(ctx), preparedKey{}, made)
	err := e.transact(func(tx *bolt.Tx) error { return fn(boltutil.WithTransaction(ctx, tx)) })
	if err == nil {
		e.backend.fresh.committed(made.keys)
		return nil
	}
	if len(made.keys) == 0 {
		return err
	}
	// The metadata database forgot these keys and may give their numbers again, so that they must not stay behind in
	// the snapshotter's own.
	for _, key := range made.keys {
		if rmErr := e.backend.Remove(context.WithoutCancel(ctx), key); rmErr != nil && !errdefs.IsNotFound(rmErr) {
			err = errors.Join(err, fmt.Errorf("remove snapshot %s of a failed transaction: %w", key, rmErr))
		}
		e.backend.fresh.drop(key)
	}
	e.gc.sweepFolders()
	return err
}

// transact runs one transaction apart from collections.
func (e *Engine) transact(fn func(tx *bolt.Tx) error) error {
	e.gc.apart.RLock()
	defer e.gc.apart.RUnlock()
	return e.db.Update(fn)
}

// View runs fn in one reading transaction.
func (e *Engine) View(ctx context.Context, fn func(ctx context.Context) error) error {
	ctx = e.With(ctx)
	return e.db.View(func(tx *bolt.Tx) error { return fn(boltutil.WithTransaction(ctx, tx)) })
}
