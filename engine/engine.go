// Package engine puts containerd's libraries together in this process by plain constructors: content, metadata,
// snapshots, leases and garbage collection. It holds the node's durable truth and knows nothing of images' registries
// or of containers' processes.
package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/sandbox"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	"github.com/sirupsen/logrus"
	bolt "go.etcd.io/bbolt"
)

const (
	// Snapshotter is the name under which the metadata database keeps the overlay snapshots.
	Snapshotter = "overlayfs"
	// Namespace is the metadata database's namespace that everything of ours is in.
	Namespace = "cri-pouch"

	defaultCollectInterval = 10 * time.Minute
	defaultCollectDelay    = 500 * time.Millisecond
)

// Options say where an Engine lives and how it cleans up.
type Options struct {
	Root string // folder of all state; made with mode 0700. One process at a time
	Log  *logrus.Entry
	// CollectInterval is the time between two garbage collections without an occasion; 0 means 10 minutes.
	CollectInterval time.Duration
	// CollectDelay is how long removals are gathered before they are collected; 0 means 500 ms.
	CollectDelay time.Duration
}

// Engine is the open state of one root. Its stores want a context of With. All of it is safe for concurrent use.
type Engine struct {
	Content    content.Store
	Snapshots  snapshots.Snapshotter
	Images     images.Store
	Leases     leases.Manager
	Containers containers.Store
	Sandboxes  sandbox.Store

	opts    Options
	db      *metadata.DB
	bolt    *bolt.DB
	backend *overlayBackend
	gc      *collector
}

// Open opens or makes the state below o.Root and removes what a process that died left of its unpacking. Nothing is
// collected before StartCollecting. Errors name the file and what to do: a database that is damaged or in use, a
// filesystem that overlayfs cannot live on (errdefs.ErrFailedPrecondition), a full disk.
func Open(ctx context.Context, o Options) (_ *Engine, err error) {
	if o.Log == nil {
		o.Log = logrus.NewEntry(logrus.StandardLogger())
	}
	if !filepath.IsAbs(o.Root) {
		return nil, fmt.Errorf("open engine: root %q is no absolute path: %w", o.Root, errdefs.ErrInvalidArgument)
	}
	if strings.ContainsAny(o.Root, ",:\\\n") { // separators of overlayfs' mount options
		return nil, fmt.Errorf("open engine: root %q has a character that overlayfs cannot mount (comma, colon, backslash): choose another folder: %w", o.Root, errdefs.ErrInvalidArgument)
	}
	if err := os.MkdirAll(o.Root, 0o700); err != nil {
		return nil, fmt.Errorf("open engine: make root: %w", err)
	}
	e := &Engine{opts: o}
	defer func() {
		if err != nil {
			_ = e.closeFiles()
		}
	}()
	meta := filepath.Join(o.Root, "meta.db")
	fresh, err := missing(meta)
	if err != nil {
		return nil, err
	}
	if e.bolt, err = openBolt(meta); err != nil {
		return nil, err
	}
	if e.backend, err = openOverlay(filepath.Join(o.Root, "overlayfs")); err != nil {
		return nil, err
	}
	if fresh {
		if err := e.verifyFresh(ctx); err != nil {
			return nil, errors.Join(err, os.Remove(meta)) // else the next Open would find it
		}
	}
	// Without the folder of the first blob a collection stops before it comes to unfinished transfers.
	if err := os.MkdirAll(filepath.Join(o.Root, "content", "blobs"), 0o700); err != nil {
		return nil, fmt.Errorf("make content folder: %w", err)
	}
	if err := sweepIngests(filepath.Join(o.Root, "content", "ingest")); err != nil {
		return nil, err
	}
	cs, err := local.NewStore(filepath.Join(o.Root, "content"))
	if err != nil {
		return nil, fmt.Errorf("open content store below %s: %w", o.Root, err)
	}
	if err := cleanTempMounts(e.TempMounts()); err != nil {
		return nil, err
	}
	// No event publisher: nothing in this process subscribes to the stores' events.
	e.db = metadata.NewDB(e.bolt, cs, map[string]snapshots.Snapshotter{Snapshotter: e.backend})
	if err := e.db.Init(ctx); err != nil {
		return nil, fmt.Errorf("open metadata database %s: %w", e.bolt.Path(), err)
	}
	e.Content, e.Snapshots = e.db.ContentStore(), e.db.Snapshotter(Snapshotter)
	e.Images, e.Leases = metadata.NewImageStore(e.db), metadata.NewLeaseManager(e.db)
	e.Containers, e.Sandboxes = metadata.NewContainerStore(e.db), metadata.NewSandboxStore(e.db)
	if err := e.verify(e.With(ctx)); err != nil {
		return nil, err
	}
	e.gc = newCollector(e)
	if err := e.removeLeftovers(e.With(ctx)); err != nil {
		return nil, err
	}
	return e, nil
}

// With gives a context that the engine's stores accept.
func (e *Engine) With(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, Namespace)
}

// Root is the folder that the engine's state is below.
func (e *Engine) Root() string { return e.opts.Root }

// TempMounts is the folder of short-lived mounts, which the next Open cleans.
func (e *Engine) TempMounts() string { return filepath.Join(e.opts.Root, "tmpmounts") }

// Close ends the collections and closes the databases. Mounts of root filesystems stay.
func (e *Engine) Close() error {
	e.gc.stop()
	return e.closeFiles()
}

func (e *Engine) closeFiles() error {
	var errs []error
	if e.db != nil {
		errs = append(errs, e.db.Close()) // waits for transactions and closes bolt
	} else if e.bolt != nil {
		errs = append(errs, e.bolt.Close())
	}
	if e.backend != nil {
		errs = append(errs, e.backend.Close())
	}
	return errors.Join(errs...)
}

// cleanTempMounts makes dir the place of containerd's short-lived mounts (idmapped layers) and takes away those of a
// process that died.
func cleanTempMounts(dir string) error {
	if err := mount.SetTempMountLocation(dir); err != nil {
		return fmt.Errorf("use %s for temporary mounts: %w", dir, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read %s: %w", dir, err)
	}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		nested, err := os.ReadDir(path)
		if err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		for _, n := range nested { // idmapped lower folders are mounted one level down
			if err := mount.UnmountAll(filepath.Join(path, n.Name()), 0); err != nil {
				return fmt.Errorf("unmount %s of an earlier run: %w", filepath.Join(path, n.Name()), err)
			}
		}
		if err := mount.UnmountAll(path, 0); err != nil {
			return fmt.Errorf("unmount %s of an earlier run: %w", path, err)
		}
		// Never RemoveAll: below a mount that is still there would be an image's files.
		for _, n := range nested {
			_ = os.Remove(filepath.Join(path, n.Name()))
		}
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("remove %s of an earlier run: %w", path, err)
		}
	}
	return nil
}
