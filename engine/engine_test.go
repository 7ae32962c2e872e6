package engine

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/sirupsen/logrus"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: overlay mounts")
	}
}

func open(t *testing.T, root string) *Engine {
	t.Helper()
	needRoot(t)
	e, err := Open(context.Background(), options(root))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

func options(root string) Options {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return Options{Root: root, Log: logrus.NewEntry(l), CollectDelay: time.Millisecond}
}

// commits gives the numbers of the last transactions of both databases.
func commits(t *testing.T, e *Engine) (meta, snap int) {
	t.Helper()
	if err := e.bolt.View(func(tx *bolt.Tx) error { meta = tx.ID(); return nil }); err != nil {
		t.Fatal(err)
	}
	_, tr, err := e.backend.ms.TransactionContext(context.Background(), false)
	if err != nil {
		t.Fatal(err)
	}
	snap = tr.(*bolt.Tx).ID()
	if err := tr.Rollback(); err != nil {
		t.Fatal(err)
	}
	return meta, snap
}

func someContainer(id string) containers.Container {
	return containers.Container{ID: id, Snapshotter: Snapshotter, SnapshotKey: id, Runtime: containers.RuntimeInfo{Name: "r"}, Spec: &anypb.Any{TypeUrl: "x"}}
}

func create(ctx context.Context, e *Engine, id string) error {
	return e.Update(ctx, func(ctx context.Context) error {
		if _, err := e.Containers.Create(ctx, someContainer(id)); err != nil {
			return err
		}
		_, err := e.Snapshots.Prepare(ctx, id, "")
		return err
	})
}

func TestCreateIsOneCommitOfEachDatabase(t *testing.T) {
	e := open(t, t.TempDir())
	ctx := context.Background()
	if err := create(ctx, e, "warm"); err != nil { // makes the buckets
		t.Fatal(err)
	}
	m0, s0 := commits(t, e)
	if err := create(ctx, e, "c"); err != nil {
		t.Fatal(err)
	}
	m1, s1 := commits(t, e)
	if m1-m0 != 1 || s1-s0 != 1 {
		t.Errorf("one create made %d commits of the metadata database and %d of the snapshotter's, want 1 and 1", m1-m0, s1-s0)
	}
}

func TestFailedTransactionLeavesNothing(t *testing.T) {
	root := t.TempDir()
	e := open(t, root)
	ctx := context.Background()
	fail := errors.New("no")
	err := e.Update(ctx, func(ctx context.Context) error {
		if _, err := e.Snapshots.Prepare(ctx, "c", ""); err != nil {
			return err
		}
		return fail
	})
	if !errors.Is(err, fail) {
		t.Fatal(err)
	}
	if _, err := e.Snapshots.Stat(e.With(ctx), "c"); !errdefs.IsNotFound(err) {
		t.Errorf("snapshot of the failed transaction: %v", err)
	}
	// The number that it had is given again: it must not be in the way.
	if err := create(ctx, e, "c"); err != nil {
		t.Fatal(err)
	}
	if err := e.Collect(ctx); err != nil {
		t.Fatal(err)
	}
	if dirs := snapshotDirs(t, root); len(dirs) != 1 {
		t.Errorf("folders are %v, want one", dirs)
	}
}

func snapshotDirs(t testing.TB, root string) (names []string) {
	t.Helper()
	all, err := os.ReadDir(filepath.Join(root, "overlayfs", "snapshots"))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range all {
		names = append(names, d.Name())
	}
	return names
}

func TestOpenCleansUpAndCollectsOnlyWhenAllowed(t *testing.T) {
	root := t.TempDir()
	e := open(t, root)
	ctx := e.With(context.Background())
	if err := create(ctx, e, "c"); err != nil {
		t.Fatal(err)
	}
	lease, err := e.Leases.Create(ctx, leases.WithID("l"))
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"extract-1-sha256:a", "held"} {
		if _, err := e.Snapshots.Prepare(leases.WithLease(ctx, lease.ID), key, ""); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := e.Snapshots.Prepare(ctx, "loose", ""); err != nil {
		t.Fatal(err)
	}
	// What a process leaves behind that dies between the two databases' commits.
	if _, err := e.backend.Prepare(ctx, Namespace+"/99/orphan", ""); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(root, "overlayfs", "snapshots", "new-123"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}

	e = open(t, root)
	if _, err := e.Snapshots.Stat(ctx, "extract-1-sha256:a"); !errdefs.IsNotFound(err) {
		t.Errorf("snapshot of a layer that was being unpacked: %v", err)
	}
	e.CollectSoon() // before recovery has ended: only noted
	time.Sleep(20 * time.Millisecond)
	if _, err := e.Snapshots.Stat(ctx, "loose"); err != nil {
		t.Errorf("something was collected before it was allowed: %v", err)
	}
	if err := e.StartCollecting(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Snapshots.Stat(ctx, "loose"); !errdefs.IsNotFound(err) {
		t.Errorf("what nothing refers to is not collected: %v", err)
	}
	for _, key := range []string{"c", "held"} {
		if _, err := e.Snapshots.Stat(ctx, key); err != nil {
			t.Errorf("what is referred to was collected: %v", err)
		}
	}
	if dirs := snapshotDirs(t, root); len(dirs) != 2 {
		t.Errorf("folders are %v, want two", dirs)
	}
}

func TestFolderOfACreateThatWasCutOff(t *testing.T) {
	root := t.TempDir()
	e := open(t, root)
	if err := create(context.Background(), e, "a"); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	// The number after the last one given (the probe of Open has had the first).
	next := filepath.Join(root, "overlayfs", "snapshots", "3")
	if err := os.MkdirAll(filepath.Join(next, "fs"), 0o700); err != nil {
		t.Fatal(err)
	}
	e = open(t, root)
	if err := create(context.Background(), e, "b"); err != nil {
		t.Fatal(err)
	}
	if err := e.StartCollecting(context.Background()); err != nil {
		t.Fatal(err)
	}
	if dirs := snapshotDirs(t, root); len(dirs) != 2 {
		t.Errorf("folders are %v, want those of a and b", dirs)
	}
}

func TestDatabaseThatDoesNotKnowTheSnapshotsIsRefused(t *testing.T) {
	root := t.TempDir()
	e := open(t, root)
	for _, id := range []string{"a", "b"} {
		if err := create(context.Background(), e, id); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(root, "overlayfs", "metadata.db")); err != nil {
		t.Fatal(err)
	}
	before := snapshotDirs(t, root)
	_, err := Open(context.Background(), options(root))
	if !errdefs.IsDataLoss(err) || !strings.Contains(err.Error(), "does not know") {
		t.Errorf("error is %v", err)
	}
	if after := snapshotDirs(t, root); len(after) != len(before) {
		t.Errorf("folders were %v and are %v", before, after)
	}
}

func TestRemovalsAreCollectedSoon(t *testing.T) {
	root := t.TempDir()
	e := open(t, root)
	ctx := e.With(context.Background())
	if err := e.StartCollecting(ctx); err != nil {
		t.Fatal(err)
	}
	if err := create(ctx, e, "c"); err != nil {
		t.Fatal(err)
	}
	if err := e.Containers.Delete(ctx, "c"); err != nil {
		t.Fatal(err)
	}
	e.CollectSoon()
	for end := time.Now().Add(time.Minute); len(snapshotDirs(t, root)) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not collected: %v", snapshotDirs(t, root))
		}
	}
}

func TestSecondOpenOfARootFailsClearly(t *testing.T) {
	root := t.TempDir()
	open(t, root)
	_, err := Open(context.Background(), options(root))
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "in use") || !strings.Contains(err.Error(), "meta.db") {
		t.Errorf("error is %v", err)
	}
}

func TestDamagedDatabaseIsAnErrorThatNamesIt(t *testing.T) {
	needRoot(t)
	damage := map[string]func(b []byte) []byte{
		"garbage":         func(b []byte) []byte { return []byte(strings.Repeat("garbage!", len(b)/8)) },
		"short":           func(b []byte) []byte { return b[:100] },
		"truncated":       func(b []byte) []byte { return b[:3*os.Getpagesize()] },
		"one page short":  func(b []byte) []byte { return b[:2*os.Getpagesize()] },
		"zeros in pages":  func(b []byte) []byte { return fill(b, 0) },
		"ones in pages":   func(b []byte) []byte { return fill(b, 0xff) },
		"both metas gone": func(b []byte) []byte { copy(b, make([]byte, 2*os.Getpagesize())); return b },
	}
	for _, db := range []string{"meta.db", "overlayfs/metadata.db"} {
		for name, f := range damage {
			t.Run(db+"/"+name, func(t *testing.T) {
				root := t.TempDir()
				e := open(t, root)
				for _, id := range []string{"a", "b", "c"} {
					if err := create(context.Background(), e, id); err != nil {
						t.Fatal(err)
					}
				}
				if err := e.Close(); err != nil {
					t.Fatal(err)
				}
				path := filepath.Join(root, db)
				b, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, f(b), 0o600); err != nil {
					t.Fatal(err)
				}
				e, err = Open(context.Background(), options(root))
				if err == nil {
					_ = e.Close()
					t.Fatal("opened")
				}
				if !errdefs.IsDataLoss(err) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "start again") {
					t.Errorf("error is %v", err)
				}
			})
		}
	}
}

// fill overwrites everything behind the two meta pages.
func fill(b []byte, with byte) []byte {
	for i := 2 * os.Getpagesize(); i < len(b); i++ {
		b[i] = with
	}
	return b
}

func TestRootThatOverlayCannotUse(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	for _, d := range []string{"l", "u", "w", "m"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	m := filepath.Join(dir, "m")
	if err := unix.Mount("overlay", m, "overlay", 0, "lowerdir="+dir+"/l,upperdir="+dir+"/u,workdir="+dir+"/w"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(m, 0); err != nil { // also shows descriptors that a failed Open leaves
			t.Errorf("unmount %s: %v", m, err)
		}
	}()
	_, err := Open(context.Background(), options(filepath.Join(m, "root")))
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "filesystem overlayfs") || !strings.Contains(err.Error(), "ext4 or xfs") {
		t.Errorf("error is %v", err)
	}
}

func TestImpossibleRootsAreRefused(t *testing.T) {
	for _, root := range []string{"somewhere", t.TempDir() + "/a,b", t.TempDir() + "/a:b", t.TempDir() + `/a\b`} {
		if _, err := Open(context.Background(), options(root)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", root, err)
		}
		if _, err := os.Stat(root); err == nil {
			t.Errorf("%s was made", root)
		}
	}
}

// containerd's plugin registry is global state with init functions; the engine is put together without it.
func TestNoPluginRegistryInTheImportGraph(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "github.com/cri-pouch/cri-pouch/snapshot").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range strings.Fields(string(out)) {
		if strings.HasPrefix(p, "github.com/containerd/plugin") || strings.HasPrefix(p, "github.com/containerd/containerd/v2/cmd/") || strings.HasPrefix(p, "github.com/containerd/containerd/v2/client") {
			t.Errorf("%s is imported", p)
		}
	}
	if !strings.Contains(string(out), "github.com/containerd/containerd/v2/core/metadata\n") {
		t.Error("the list is not that of the engine")
	}
}
