package engine

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// upperLabel is where the snapshotter tells the folder of a snapshot's own files.
const upperLabel = "containerd.io/snapshot/overlay.upperdir"

// overlayBackend is containerd's overlay snapshotter with two additions: a commit may bring the usage that was counted
// while the layer was unpacked (the stock one walks the layer inside both databases' transactions), and the snapshots
// that a transaction makes are noted (fresh.go).
type overlayBackend struct {
	snapshots.Snapshotter
	ms    *storage.MetaStore
	fresh fresh
}

func openOverlay(root string) (*overlayBackend, error) {
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, fmt.Errorf("make snapshot folder: %w", err)
	}
	if err := overlayutils.Supported(root); err != nil {
		return nil, unsupported(root, err)
	}
	path := filepath.Join(root, "metadata.db")
	db, err := openBolt(path) // containerd's store opens it at first use only, without looking for damage
	if err != nil {
		return nil, err
	}
	if err := db.View(func(tx *bolt.Tx) error { return checkSnapshotNumbers(tx) }); err != nil {
		return nil, errors.Join(damaged(path, err), db.Close())
	}
	if err := errors.Join(setAsideUncommitted(db, filepath.Join(root, "snapshots")), db.Close()); err != nil {
		return nil, fmt.Errorf("check snapshots below %s: %w", root, err)
	}
	ms, err := storage.NewMetaStore(path, func(o *bolt.Options) error {
		*o = *boltOptions()
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	sn, err := overlay.NewSnapshotter(root, overlay.AsynchronousRemove, overlay.WithMetaStore(ms), overlay.WithUpperdirLabel, overlay.WithRemapIDs)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open snapshots below %s: %w", root, err), ms.Close())
	}
	return &overlayBackend{Snapshotter: sn, ms: ms}, nil
}

// setAsideUncommitted renames the folder of a snapshot whose making was cut off between the folder's rename and the
// commit: its number will be given again, and the folder would be in the way. Nothing is deleted here. The snapshotter
// makes folders inside its write transaction, so that there is one at most; more mean that the database is not the one
// that the folders were made with, and that a collection would delete what running containers stand on.
func setAsideUncommitted(db *bolt.DB, dir string) error {
	var last uint64
	if err := db.View(func(tx *bolt.Tx) error {
		if v1 := tx.Bucket([]byte("v1")); v1 != nil {
			if b := v1.Bucket([]byte("snapshots")); b != nil {
				last = b.Sequence()
			}
		}
		return nil
	}); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var ahead []string
	for _, e := range entries {
		if n, err := strconv.ParseUint(e.Name(), 10, 64); err == nil && n > last {
			ahead = append(ahead, e.Name())
		}
	}
	if len(ahead) > 1 {
		return damaged(db.Path(), fmt.Errorf("it does not know the snapshots %s", strings.Join(ahead, ", ")))
	}
	for _, name := range ahead {
		aside, err := os.MkdirTemp(dir, "new-") // the collection deletes what has no number of a snapshot
		if err != nil {
			return err
		}
		if err := os.Rename(filepath.Join(dir, name), filepath.Join(aside, name)); err != nil {
			return err
		}
	}
	return nil
}

// maxSnapshots is more than a node ever makes, and less than containerd's keys have room for.
const maxSnapshots = 1 << 40

// checkSnapshotNumbers refuses numbers that were never given, or twice: containerd panics on some, and would remove the folder
// of another snapshot for others.
func checkSnapshotNumbers(tx *bolt.Tx) error {
	v1 := tx.Bucket([]byte("v1"))
	if v1 == nil || v1.Bucket([]byte("snapshots")) == nil {
		return nil
	}
	all, seen := v1.Bucket([]byte("snapshots")), map[uint64]bool{}
	if all.Sequence() > maxSnapshots {
		return fmt.Errorf("%d snapshots were made", all.Sequence())
	}
	return all.ForEach(func(key, value []byte) error {
		one := all.Bucket(key)
		if value != nil || one == nil {
			return fmt.Errorf("snapshot %q is no bucket", key)
		}
		n, size := binary.Uvarint(one.Get([]byte("id")))
		if size <= 0 || n == 0 || n > all.Sequence() || seen[n] {
			return fmt.Errorf("snapshot %q has number %d of %d", key, n, all.Sequence())
		}
		seen[n] = true
		if parent := one.Get([]byte("parent")); len(parent) > 0 && all.Bucket(parent) == nil {
			return fmt.Errorf("snapshot %q has no parent %q", key, parent)
		}
		return nil
	})
}

// unsupported explains why overlayfs cannot be used on root. A disk that is merely full is reported as that.
func unsupported(root string, err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EROFS) {
		return fmt.Errorf("prepare snapshot folder %s: %w", root, err)
	}
	kind := "unknown"
	var st unix.Statfs_t
	if unix.Statfs(root, &st) == nil {
		kind = fmt.Sprintf("%#x", uint64(st.Type))
		if name, ok := fsNames[uint64(st.Type)]; ok {
			kind = name
		}
	}
	return fmt.Errorf("overlayfs cannot be used on %s (filesystem %s): put the root on ext4 or xfs, and run as root: %w: %w", root, kind, errdefs.ErrFailedPrecondition, err)
}

// fsNames are the filesystems that roots are put on by mistake (statfs(2)).
var fsNames = map[uint64]string{
	unix.OVERLAYFS_SUPER_MAGIC: "overlayfs", unix.NFS_SUPER_MAGIC: "nfs", unix.FUSE_SUPER_MAGIC: "fuse",
	unix.MSDOS_SUPER_MAGIC: "vfat", unix.RAMFS_MAGIC: "ramfs", unix.TMPFS_MAGIC: "tmpfs", unix.XFS_SUPER_MAGIC: "xfs",
	unix.EXT4_SUPER_MAGIC: "ext4", unix.BTRFS_SUPER_MAGIC: "btrfs", unix.PROC_SUPER_MAGIC: "proc",
}

type usageKey struct{}

// WithUsage gives a context in which a Commit stores u instead of walking the layer.
func WithUsage(ctx context.Context, u snapshots.Usage) context.Context {
	return context.WithValue(ctx, usageKey{}, u)
}

// Commit stores the usage of WithUsage where there is one.
func (b *overlayBackend) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	u, ok := ctx.Value(usageKey{}).(snapshots.Usage)
	if !ok {
		return b.Snapshotter.Commit(ctx, name, key, opts...)
	}
	return b.ms.WithTransaction(ctx, true, func(ctx context.Context) error {
		if _, err := storage.CommitActive(ctx, key, name, u, opts...); err != nil {
			return fmt.Errorf("commit snapshot %s: %w", key, err)
		}
		return nil
	})
}

// Cleanup removes the folders of removed snapshots. A collection does it when others can go on.
func (b *overlayBackend) Cleanup(ctx context.Context) error {
	if removed, ok := ctx.Value(collectionKey{}).(*atomic.Bool); ok {
		removed.Store(true)
		return nil
	}
	c, ok := b.Snapshotter.(snapshots.Cleaner)
	if !ok {
		return nil
	}
	return c.Cleanup(ctx)
}

// UpperDir gives the folder of the files that the snapshot itself adds, and the name of its parent.
func (e *Engine) UpperDir(ctx context.Context, name string) (dir, parent string, err error) {
	info, err := e.Snapshots.Stat(ctx, name)
	if err != nil {
		return "", "", fmt.Errorf("look up snapshot %s: %w", name, err)
	}
	return info.Labels[upperLabel], info.Parent, nil
}
