package snapshot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
)

const (
	leaseKind = "cri-pouch.io/kind"
	leasePull = "pull"
)

// pullLease is the ID of the lease of all pulls of a reference, the same for each process.
func pullLease(r Reference) string {
	sum := sha256.Sum256([]byte(r.String()))
	return "pull-" + hex.EncodeToString(sum[:16])
}

func isPullLease(l leases.Lease) bool { return l.Labels[leaseKind] == leasePull }

// takeLease makes the lease, or takes over that of a pull that did not finish, and keeps it from others (pulls of the
// same reference with other credentials, and housekeeping) until free.
func (s *Store) takeLease(ctx context.Context, id string) (free func(), err error) {
	if free, err = s.blobs.lock(ctx, id); err != nil {
		return nil, err
	}
	_, err = s.eng.Leases.Create(ctx, leases.WithID(id), leases.WithLabel(leaseKind, leasePull))
	if err != nil && !errdefs.IsAlreadyExists(err) {
		free()
		return nil, fmt.Errorf("make lease %s: %w", id, err)
	}
	s.pulls.keep(id)
	return free, nil
}

// dropLease lets everything go that only the lease holds. The caller has taken the lease.
func (s *Store) dropLease(ctx context.Context, id string) error {
	if err := s.eng.Leases.Delete(ctx, leases.Lease{ID: id}); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("drop lease %s: %w", id, err)
	}
	s.pulls.forget(id)
	s.eng.CollectSoon()
	return nil
}

// keepOrDrop decides about what a failed pull fetched: it stays for a while if a retry may go on from it, else it goes
// at once. On a full disk also what other pulls keep goes: room for the node's own files counts for more. The caller
// has taken the lease.
func (s *Store) keepOrDrop(ctx context.Context, id string, err error) {
	if mayGoOn(ctx, err) {
		s.pulls.keep(id)
		return
	}
	ctx = context.WithoutCancel(ctx) // this is to be done even if nobody waits any more
	if err := s.dropLease(ctx, id); err != nil {
		s.log.WithError(err).WithField("lease", id).Warn("what a failed pull fetched is dropped later")
	}
	if isDiskFull(err) {
		now := time.Now()
		for _, other := range s.pulls.stale(now) {
			s.letGo(ctx, other, now)
		}
	}
	if err := s.eng.Reclaim(ctx); err != nil {
		s.log.WithError(err).Warn("what a failed pull fetched is collected later")
	}
}

// mayGoOn says whether a pull that failed with err may get further if it is tried again as it is: the way to the
// registry failed, or the pull was ended by us. Everything else is wrong with the image, the caller's rights or the disk.
func mayGoOn(ctx context.Context, err error) bool {
	if isDiskFull(err) {
		return false
	}
	return context.Cause(ctx) != nil || errdefs.IsUnavailable(err) || errors.Is(err, errCutOff)
}

// letGo drops the lease if it has waited for a next try since before t, and none is under way.
func (s *Store) letGo(ctx context.Context, id string, t time.Time) {
	if !s.pulls.waits(id, t) {
		return
	}
	free, ok := s.blobs.tryLock(id)
	if !ok {
		return // a pull goes on with it
	}
	defer free()
	if !s.pulls.waits(id, t) {
		return
	}
	if err := s.dropLease(ctx, id); err != nil {
		s.log.WithError(err).WithField("lease", id).Warn("what an unfinished pull fetched cannot be dropped yet")
	}
}

// adoptLeases takes over the leases of pulls that an earlier process did not finish: what they fetched stays for the
// next try.
func (s *Store) adoptLeases(ctx context.Context) error {
	list, err := s.eng.Leases.List(ctx)
	if err != nil {
		return fmt.Errorf("list leases: %w", err)
	}
	for _, l := range list {
		if isPullLease(l) {
			s.pulls.keep(l.ID)
		}
	}
	return nil
}

// keep notes that the lease is there, and that from now on it waits for the end of its pull or for a next try.
func (x *pulls) keep(lease string) {
	x.mu.Lock()
	x.kept[lease] = time.Now()
	x.mu.Unlock()
}

func (x *pulls) forget(lease string) {
	x.mu.Lock()
	delete(x.kept, lease)
	x.mu.Unlock()
}

// waits says whether the lease is there and waits since before t.
func (x *pulls) waits(lease string, t time.Time) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	since, ok := x.kept[lease]
	return ok && since.Before(t)
}

// stale gives the leases that have waited since before t.
func (x *pulls) stale(t time.Time) []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	var ids []string
	for id, since := range x.kept {
		if since.Before(t) {
			ids = append(ids, id)
		}
	}
	return ids
}
