package engine

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
)

// furnished makes a root with something of each kind and closes it.
func furnished(t testing.TB, root string) {
	t.Helper()
	e, err := Open(context.Background(), options(root))
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"a", "b", "c"} {
		if err := create(context.Background(), e, id); err != nil {
			t.Fatal(err)
		}
	}
	img := images.Image{Name: "docker.io/library/one:1", Target: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("one"), Size: 3}}
	if _, err := e.Images.Create(e.With(context.Background()), img); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}

// A database that is gone while the other one is there must not lead to the removal of what containers run on.
func TestALostDatabaseIsDamage(t *testing.T) {
	needRoot(t)
	for _, db := range []string{"meta.db", "overlayfs/metadata.db"} {
		t.Run(db, func(t *testing.T) {
			root := filepath.Join(t.TempDir(), "engine")
			furnished(t, root)
			before := snapshotDirs(t, root)
			if err := os.Remove(filepath.Join(root, db)); err != nil {
				t.Fatal(err)
			}
			for range 2 { // the first try must not hide it from the second
				if e, err := Open(context.Background(), options(root)); !errdefs.IsDataLoss(err) {
					if err == nil {
						_ = e.Close()
					}
					t.Fatalf("error is %v", err)
				}
			}
			if after := snapshotDirs(t, root); len(after) != len(before) {
				t.Errorf("folders were %v and are %v", before, after)
			}
			aside, err := SetAside(root, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			open(t, root)
			if after := snapshotDirs(t, aside); len(after) != len(before) {
				t.Errorf("folders were %v and are %v where they were set aside", before, after)
			}
		})
	}
}

// The last page that a database has may be a free one: then nothing that it holds is missing, yet it is where the next commit
// would write.
func TestADatabaseThatLacksItsLastPageIsDamaged(t *testing.T) {
	needRoot(t)
	for _, name := range []string{"meta.db", "overlayfs/metadata.db"} {
		root := filepath.Join(t.TempDir(), "engine")
		furnished(t, root)
		path := filepath.Join(root, name)
		db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		var size int64
		err = db.View(func(tx *bolt.Tx) error { size = tx.Size(); return nil })
		if err := errors.Join(err, db.Close(), os.Truncate(path, size-1)); err != nil {
			t.Fatal(err)
		}
		if e, err := Open(context.Background(), options(root)); !errdefs.IsDataLoss(err) {
			if err == nil {
				_ = e.Close()
			}
			t.Errorf("%s: error is %v", name, err)
		}
	}
}

// A damage that is no broken page.
func TestARecordThatLeadsNowhereIsDamage(t *testing.T) {
	needRoot(t)
	for name, f := range map[string]func(t *testing.T, e *Engine){
		"a container without its snapshot": func(t *testing.T, e *Engine) {
			if err := e.Snapshots.Remove(e.With(context.Background()), "b"); err != nil {
				t.Fatal(err)
			}
		},
		"another snapshot's name": func(t *testing.T, e *Engine) {
			c := someContainer("d")
			c.SnapshotKey = "a"
			if _, err := e.Containers.Create(e.With(context.Background()), c); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			root := filepath.Join(t.TempDir(), "engine")
			furnished(t, root)
			e := open(t, root)
			f(t, e)
			if err := e.Close(); err != nil {
				t.Fatal(err)
			}
			if e, err := Open(context.Background(), options(root)); !errdefs.IsDataLoss(err) {
				if err == nil {
					_ = e.Close()
				}
				t.Errorf("error is %v", err)
			}
		})
	}
}

// FuzzDamagedDatabases overwrites bytes of a database, and cuts it: Open gives an engine that can be read, or an error; it never
// panics and removes no folder of a snapshot whose container is known.
func FuzzDamagedDatabases(f *testing.F) {
	if os.Getuid() != 0 {
		f.Skip("needs root: overlay mounts")
	}
	seed := filepath.Join(f.TempDir(), "engine")
	furnished(f, seed)
	for _, meta := range []bool{true, false} {
		f.Add(meta, uint32(0), []byte{0xff}, uint32(0))
		f.Add(meta, uint32(4096*3+16), []byte{1, 0, 0, 0}, uint32(0))
		f.Add(meta, uint32(4096*5), bytes.Repeat([]byte{0}, 64), uint32(3))
	}
	f.Fuzz(func(t *testing.T, meta bool, at uint32, with []byte, cut uint32) {
		root := filepath.Join(t.TempDir(), "engine")
		if err := os.CopyFS(root, os.DirFS(seed)); err != nil {
			t.Fatal(err)
		}
		db := "overlayfs/metadata.db"
		if meta {
			db = "meta.db"
		}
		path := filepath.Join(root, db)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		copy(b[int(at)%len(b):], with)
		b = b[:len(b)-int(cut)%len(b)]
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		before := snapshotDirs(t, root)
		e, err := Open(context.Background(), options(root))
		if err != nil {
			if after := snapshotDirs(t, root); len(after) < len(before) {
				t.Errorf("Open failed (%v); folders were %v and are %v", err, before, after)
			}
			return
		}
		defer e.Close()
		ctx := e.With(context.Background())
		if err := e.Collect(ctx); err != nil {
			t.Logf("collect: %v", err)
		}
		all, err := e.Containers.List(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range all {
			dir, _, err := e.UpperDir(ctx, c.ID)
			if err != nil {
				t.Fatalf("snapshot of container %s: %v", c.ID, err)
			}
			if _, err := os.Stat(dir); err != nil {
				t.Errorf("container %s: %v", c.ID, err)
			}
		}
	})
}
