package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
)

// SetAside renames the folder of an engine whose databases are damaged, so that the next Open begins without anything, and
// gives the new name. What is mounted from it stays as it is: a mount holds folders, not their names. Nothing is deleted.
func SetAside(root string, at time.Time) (string, error) {
	aside := root + ".damaged-" + at.UTC().Format("20060102T150405.000000000Z")
	if _, err := os.Lstat(aside); !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("set %s aside: %s is there: %w", root, aside, errdefs.ErrAlreadyExists)
	}
	if err := os.Rename(root, aside); err != nil {
		return "", fmt.Errorf("set the damaged store aside: %w", err)
	}
	return aside, nil
}

// missing says whether there is no database at path, or an empty file, as a first start leaves that was killed.
func missing(path string) (bool, error) {
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("open database: %w", err)
	}
	return st.Size() == 0, nil
}

// verify reads what the databases have of each kind, so that a damage that is no broken page shows here. Each container must
// have its snapshot: a collection would take one that nobody refers to for garbage, and a container may run on it.
func (e *Engine) verify(ctx context.Context) error {
	path := e.bolt.Path()
	return guard(path, func() error {
		all, err := e.Containers.List(ctx)
		if err != nil {
			return fmt.Errorf("list containers: %w", err)
		}
		for _, c := range all {
			if c.Snapshotter == "" && c.SnapshotKey == "" { // its snapshot is in a store that was set aside
				continue
			}
			if c.Snapshotter != Snapshotter || c.SnapshotKey != c.ID {
				return fmt.Errorf("container %s has snapshot %q of %q", c.ID, c.SnapshotKey, c.Snapshotter)
			}
			if _, err := e.Snapshots.Stat(ctx, c.SnapshotKey); err != nil {
				return fmt.Errorf("snapshot of container %s: %w", c.ID, err)
			}
		}
		if _, err := e.Sandboxes.List(ctx); err != nil {
			return fmt.Errorf("list sandboxes: %w", err)
		}
		if _, err := e.Leases.List(ctx); err != nil {
			return fmt.Errorf("list leases: %w", err)
		}
		return e.verifyImages(ctx)
	})
}

func (e *Engine) verifyImages(ctx context.Context) error {
	all, err := e.Images.List(ctx)
	if err != nil {
		return fmt.Errorf("list images: %w", err)
	}
	for _, i := range all {
		if err := i.Target.Digest.Validate(); err != nil {
			return fmt.Errorf("image %q: %w", i.Name, err)
		}
	}
	err = e.Snapshots.Walk(ctx, func(context.Context, snapshots.Info) error { return nil })
	if err != nil {
		return fmt.Errorf("list snapshots: %w", err)
	}
	return nil
}

// verifyFresh refuses snapshots where the metadata database was missing: a collection would remove all of them.
func (e *Engine) verifyFresh(ctx context.Context) error {
	path := filepath.Join(e.opts.Root, "meta.db")
	some := false
	err := e.backend.Walk(ctx, func(context.Context, snapshots.Info) error {
		some = true
		return nil
	})
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("look for snapshots: %w", err)
	}
	if some {
		return damaged(path, errors.New("it is missing, while there are snapshots"))
	}
	return nil
}
