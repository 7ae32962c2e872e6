package snapshot

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/sandbox"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/cri-pouch/cri-pouch/engine"
	"github.com/cri-pouch/cri-pouch/internal/failpoint"
)

const (
	// recordKey is the extension of a container or sandbox object that has our record.
	recordKey = "io.cri-pouch.record"
	// recordType is the type URL of records: JSON of package cri, opaque here.
	recordType = "io.cri-pouch.record/v1+json"
	// runtimeName stands in the objects; the metadata store wants one.
	runtimeName = "io.cri-pouch.v1"
)

// Rootfs has the root filesystems of containers, each with its record. All of it is safe for concurrent use.
type Rootfs struct {
	eng    *engine.Engine
	dir    string  // where they are mounted
	mounts *locker // by container ID
	usage  *usageCache
}

// record wraps b as the store wants it.
func record(b []byte) typeurl.Any { return &anypb.Any{TypeUrl: recordType, Value: b} }

// Create makes the snapshot of the container's root filesystem on its image's top layer, and stores the record with it:
// one commit of the metadata database and one of the snapshotter's own. The record keeps snapshot and manifest even
// when the image is removed. Errors: errdefs.ErrAlreadyExists, ErrNotFound (the image is gone), ErrInvalidArgument.
func (s *Rootfs) Create(ctx context.Context, r NewRootfs) error {
	labels := map[string]string{}
	for k, v := range r.Labels {
		labels[k] = v
	}
	if r.Manifest != "" {
		labels["containerd.io/gc.ref.content.manifest"] = r.Manifest
	}
	c := containers.Container{
		ID: r.ID, Labels: labels, Image: r.ImageID, Snapshotter: engine.Snapshotter, SnapshotKey: r.ID,
		Runtime: containers.RuntimeInfo{Name: runtimeName},
		// The OCI specification stands in the bundle; the store only wants a value.
		Spec:       &anypb.Any{TypeUrl: recordType},
		Extensions: map[string]typeurl.Any{recordKey: record(r.Record)},
	}
	opts, err := mappingLabels(r)
	if err != nil {
		return fmt.Errorf("create root filesystem of container %s: %w", r.ID, err)
	}
	err = s.eng.Update(ctx, func(ctx context.Context) error {
		if _, err := s.eng.Containers.Create(ctx, c); err != nil {
			return err
		}
		_, err := s.eng.Snapshots.Prepare(ctx, r.ID, r.ChainID, opts...)
		return err
	})
	switch {
	case errdefs.IsNotFound(err):
		return fmt.Errorf("create root filesystem of container %s: its image %s is gone, pull it again: %w", r.ID, r.ImageID, err)
	case err != nil:
		return fmt.Errorf("create root filesystem of container %s: %w", r.ID, err)
	}
	failpoint.Hit("rootfs.created")
	return nil
}

// Adopt stores the record of a container that runs on a snapshot which the database does not know any more: its root
// filesystem is there as long as it is mounted. errdefs.ErrAlreadyExists.
func (s *Rootfs) Adopt(ctx context.Context, id string, b []byte) error {
	c := containers.Container{
		ID: id, Runtime: containers.RuntimeInfo{Name: runtimeName}, Spec: &anypb.Any{TypeUrl: recordType},
		Extensions: map[string]typeurl.Any{recordKey: record(b)},
	}
	if _, err := s.eng.Containers.Create(s.eng.With(ctx), c); err != nil {
		return fmt.Errorf("store the record of container %s: %w", id, err)
	}
	return nil
}

// Stranded gives the containers that were adopted: their snapshots are in no database.
func (s *Rootfs) Stranded(ctx context.Context) (ids []string, err error) {
	all, err := s.eng.Containers.List(s.eng.With(ctx))
	if err != nil {
		return nil, fmt.Errorf("list records of containers: %w", err)
	}
	for _, c := range all {
		if c.SnapshotKey == "" {
			ids = append(ids, c.ID)
		}
	}
	return ids, nil
}

// mappingLabels tells the snapshotter of a user namespace: the layers are then shared by idmapped mounts, and the
// writable folder belongs to the namespace's root.
func mappingLabels(r NewRootfs) ([]snapshots.Opt, error) {
	if len(r.UIDs) == 0 && len(r.GIDs) == 0 {
		return nil, nil
	}
	if _, err := rootOf(r.UIDs); err != nil {
		return nil, err
	}
	if _, err := rootOf(r.GIDs); err != nil {
		return nil, err
	}
	return []snapshots.Opt{snapshots.WithLabels(map[string]string{
		snapshots.LabelSnapshotUIDMapping: formatMapping(r.UIDs),
		snapshots.LabelSnapshotGIDMapping: formatMapping(r.GIDs),
	})}, nil
}

// rootOf gives the host's ID of the namespace's ID 0.
func rootOf(m []IDMapping) (uint32, error) {
	for _, e := range m {
		if e.ContainerID == 0 && e.Length > 0 {
			return e.HostID, nil
		}
	}
	return 0, fmt.Errorf("the user namespace maps no ID 0, which a root filesystem needs: %w", errdefs.ErrInvalidArgument)
}

func formatMapping(m []IDMapping) string {
	parts := make([]string, len(m))
	for i, e := range m {
		parts[i] = fmt.Sprintf("%d:%d:%d", e.ContainerID, e.HostID, e.Length)
	}
	return strings.Join(parts, ",")
}

// parseRoot gives the host's ID of ID 0 in a mapping as formatMapping writes it.
func parseRoot(s string) (int, bool) {
	for _, part := range strings.Split(s, ",") {
		f := strings.Split(part, ":")
		if len(f) != 3 || f[0] != "0" {
			continue
		}
		id, err := strconv.ParseUint(f[1], 10, 32)
		return int(id), err == nil
	}
	return 0, false
}

// Update replaces the record of a container; errdefs.ErrNotFound.
func (s *Rootfs) Update(ctx context.Context, id string, b []byte) error {
	c := containers.Container{ID: id, Extensions: map[string]typeurl.Any{recordKey: record(b)}}
	if _, err := s.eng.Containers.Update(s.eng.With(ctx), c, "extensions."+recordKey); err != nil {
		return fmt.Errorf("update record of container %s: %w", id, err)
	}
	return nil
}

// Records gives the records of all containers by ID.
func (s *Rootfs) Records(ctx context.Context) (map[string][]byte, error) {
	all, err := s.eng.Containers.List(s.eng.With(ctx))
	if err != nil {
		return nil, fmt.Errorf("list records of containers: %w", err)
	}
	m := make(map[string][]byte, len(all))
	for _, c := range all {
		if ext := c.Extensions[recordKey]; ext != nil {
			m[c.ID] = ext.GetValue()
		}
	}
	return m, nil
}

// Remove unmounts the root filesystem and drops it with its record; what is absent is no error. The files go with the
// next garbage collection.
func (s *Rootfs) Remove(ctx context.Context, id string) error {
	return s.remove(ctx, id, func(context.Context) error { return nil })
}

// RemoveInto is Remove that, in the same commit, replaces the record of a sandbox: what the container leaves behind is
// there from the moment when the container is not. A sandbox that is gone is no error.
func (s *Rootfs) RemoveInto(ctx context.Context, id, sandboxID string, sandboxRecord []byte) error {
	sb := sandbox.Sandbox{ID: sandboxID, Extensions: map[string]typeurl.Any{recordKey: record(sandboxRecord)}}
	return s.remove(ctx, id, func(ctx context.Context) error {
		if _, err := s.eng.Sandboxes.Update(ctx, sb, "extensions."+recordKey); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("write record of sandbox %s: %w", sandboxID, err)
		}
		return nil
	})
}

// remove does more in its commit.
func (s *Rootfs) remove(ctx context.Context, id string, more func(context.Context) error) error {
	if err := s.Unmount(ctx, id); err != nil {
		return err
	}
	err := s.eng.Update(ctx, func(ctx context.Context) error {
		if err := s.eng.Containers.Delete(ctx, id); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
		if err := s.eng.Snapshots.Remove(ctx, id); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
		return more(ctx)
	})
	if err != nil {
		return fmt.Errorf("remove root filesystem of container %s: %w", id, err)
	}
	failpoint.Hit("rootfs.removed")
	s.usage.drop(id)
	s.eng.CollectSoon()
	return nil
}
