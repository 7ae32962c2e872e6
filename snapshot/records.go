package snapshot

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/sandbox"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
)

const leaseSandbox = "sandbox"

// SandboxLease is the ID of the lease that holds what belongs to a sandbox; it lives as long as the sandbox's record.
func SandboxLease(id string) string { return "sandbox-" + id }

// PutSandbox makes or replaces the record of a sandbox, with its lease, in one commit.
func (s *Store) PutSandbox(ctx context.Context, id string, b []byte) error {
	sb := sandbox.Sandbox{ID: id, Runtime: sandbox.RuntimeOpts{Name: runtimeName}, Extensions: map[string]typeurl.Any{recordKey: record(b)}}
	err := s.eng.Update(ctx, func(ctx context.Context) error {
		_, err := s.eng.Sandboxes.Update(ctx, sb, "extensions."+recordKey)
		if !errdefs.IsNotFound(err) {
			return err
		}
		if _, err := s.eng.Sandboxes.Create(ctx, sb); err != nil {
			return err
		}
		_, err = s.eng.Leases.Create(ctx, leases.WithID(SandboxLease(id)), leases.WithLabel(leaseKind, leaseSandbox))
		if errdefs.IsAlreadyExists(err) {
			return nil
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("write record of sandbox %s: %w", id, err)
	}
	return nil
}

// DeleteSandbox drops the record and the lease; an absent one is errdefs.ErrNotFound.
func (s *Store) DeleteSandbox(ctx context.Context, id string) error {
	err := s.eng.Update(ctx, func(ctx context.Context) error {
		if err := s.eng.Leases.Delete(ctx, leases.Lease{ID: SandboxLease(id)}); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
		return s.eng.Sandboxes.Delete(ctx, id)
	})
	if err != nil {
		return fmt.Errorf("delete record of sandbox %s: %w", id, err)
	}
	s.eng.CollectSoon()
	return nil
}

// Sandboxes gives the records of all sandboxes by ID.
func (s *Store) Sandboxes(ctx context.Context) (map[string][]byte, error) {
	all, err := s.eng.Sandboxes.List(s.eng.With(ctx))
	if err != nil {
		return nil, fmt.Errorf("list records of sandboxes: %w", err)
	}
	m := make(map[string][]byte, len(all))
	for _, sb := range all {
		if ext := sb.Extensions[recordKey]; ext != nil {
			m[sb.ID] = ext.GetValue()
		}
	}
	return m, nil
}
