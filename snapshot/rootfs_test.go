package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/errdefs"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"golang.org/x/sys/unix"
)

func TestManyLayersCanBeMounted(t *testing.T) {
	for _, userns := range []bool{false, true} {
		t.Run(fmt.Sprintf("userns=%v", userns), func(t *testing.T) {
			l := newLab(t)
			var layers []v1.Layer
			for i := range 130 { // far more than the names of which fit into a page
				layers = append(layers, layerOf(t, file{name: fmt.Sprintf("f%d", i), body: "x"}))
			}
			img := l.pull(newReg(t).push("app:1", imageOf(t, layers...)))
			r := NewRootfs{ID: "c", ImageID: img.ID, Manifest: img.Manifest, ChainID: img.ChainID, Record: []byte("{}")}
			if userns {
				r.UIDs = []IDMapping{{0, 200000, 65536}}
				r.GIDs = r.UIDs
			}
			if err := l.Rootfs().Create(context.Background(), r); err != nil {
				t.Fatal(err)
			}
			root, err := l.Rootfs().Mount(context.Background(), "c")
			if err != nil {
				t.Fatal(err)
			}
			if n := len(names(t, root)); n != 130 {
				t.Errorf("%d files", n)
			}
			if err := l.Rootfs().Remove(context.Background(), "c"); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestTooManyLayersAreRefused(t *testing.T) {
	l := newLab(t)
	one := layerOf(t, file{name: "f", body: "x"})
	var layers []v1.Layer
	for range maxLayers + 1 {
		layers = append(layers, one)
	}
	if _, err := l.Pull(context.Background(), newReg(t).push("app:1", imageOf(t, layers...)), nil); !errdefs.IsInvalidArgument(err) {
		t.Errorf("error is %v", err)
	}
}

func TestUserNamespaceSharesTheLayers(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	img := l.pull(newReg(t).push("app:1", imageOf(t, layerOf(t, file{name: "f", body: "x", uid: 7, gid: 8}, file{name: "r", body: "y"}))))
	maps := []IDMapping{{0, 300000, 1000}, {1000, 500000, 1000}}
	if err := l.Rootfs().Create(ctx, NewRootfs{ID: "c", ImageID: img.ID, Manifest: img.Manifest, ChainID: img.ChainID, Record: []byte("{}"), UIDs: maps, GIDs: maps}); err != nil {
		t.Fatal(err)
	}
	root, err := l.Rootfs().Mount(ctx, "c")
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string][2]uint32{"f": {300007, 300008}, "r": {300000, 300000}, ".": {300000, 300000}, "..": {300000, 300000}} {
		if st := stat(t, filepath.Join(root, path)); st.Uid != want[0] || st.Gid != want[1] {
			t.Errorf("%s belongs to %d:%d", path, st.Uid, st.Gid)
		}
	}
	if st := stat(t, filepath.Dir(root)); st.Mode&0o777 != 0o700 {
		t.Errorf("the container's folder is %o", st.Mode&0o777)
	}
	if err := l.Rootfs().Remove(ctx, "c"); err != nil {
		t.Fatal(err)
	}
	if left := names(t, filepath.Join(l.root, "lib", "tmpmounts")); len(left) > 0 {
		t.Errorf("temporary mounts are left: %v", left)
	}
	bad := []IDMapping{{5, 300000, 1000}}
	if err := l.Rootfs().Create(ctx, NewRootfs{ID: "d", ImageID: img.ID, ChainID: img.ChainID, UIDs: bad, GIDs: bad}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a mapping without root: %v", err)
	}
}

// The daemon mounts such a root for each container of a pod: whatever stays open of one mount adds up.
func TestMountsInUserNamespacesLeaveNoDescriptor(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	img := l.pull(newReg(t).push("app:1", imageOf(t, layerOf(t, file{name: "f", body: "x"}))))
	maps := []IDMapping{{0, 300000, 65536}}
	if err := l.Rootfs().Create(ctx, NewRootfs{ID: "c", ImageID: img.ID, Manifest: img.Manifest, ChainID: img.ChainID, Record: []byte("{}"), UIDs: maps, GIDs: maps}); err != nil {
		t.Fatal(err)
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // a collection would close what is left open, and hide it
	goruntime.GC()
	before := pidfds(t)
	for range 3 {
		if _, err := l.Rootfs().Mount(ctx, "c"); err != nil {
			t.Fatal(err)
		}
		if err := l.Rootfs().Unmount(ctx, "c"); err != nil {
			t.Fatal(err)
		}
	}
	if after := pidfds(t); after != before {
		t.Errorf("%d descriptors of processes are open, there were %d", after, before)
	}
	if err := l.Rootfs().Remove(ctx, "c"); err != nil {
		t.Fatal(err)
	}
}

// pidfds counts this process's open descriptors of processes.
func pidfds(t *testing.T) (n int) {
	t.Helper()
	for _, fd := range names(t, "/proc/self/fd") {
		target, _ := os.Readlink(filepath.Join("/proc/self/fd", fd))
		if strings.Contains(target, "pidfd") {
			n++
		}
	}
	return n
}

func TestMalformedMappingsAreRefused(t *testing.T) {
	for _, list := range []string{"", "0", "0:1", "0:1:2:3", "0:-1:2", "a:1:2", "0:1:2,", "0:4294967296:1"} {
		if ns, err := userNamespace(list, "0:1:1"); err == nil {
			t.Errorf("%q makes a namespace", list)
			_ = ns.Close()
		}
	}
}

func TestBusyRootIsWaitedForAndNamed(t *testing.T) {
	l := newLab(t)
	ref, _ := simpleImage(t)
	root := l.mounted(l.pull(ref), "c")
	inner := filepath.Join(root, "etc")
	if err := unix.Mount("tmpfs", inner, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := l.Rootfs().Unmount(ctx, "c"); err == nil || !strings.Contains(err.Error(), inner) {
		t.Errorf("error is %v", err)
	}
	time.AfterFunc(50*time.Millisecond, func() {
		if err := unix.Unmount(inner, 0); err != nil {
			t.Error(err)
		}
	})
	for range 2 {
		if err := l.Rootfs().Unmount(context.Background(), "c"); err != nil {
			t.Errorf("error is %v", err)
		}
	}
	if again, err := l.Rootfs().Mount(context.Background(), "c"); err != nil || again != root {
		t.Errorf("mounted again: %q, %v", again, err)
	}
}

func TestRootfsBadInput(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	ref, _ := simpleImage(t)
	img := l.pull(ref)
	for _, id := range []string{"", "..", "../x", "a/b", strings.Repeat("a", 500)} {
		if _, err := l.Rootfs().Mount(ctx, id); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Mount(%.20q): %v", id, err)
		}
		if err := l.Rootfs().Remove(ctx, id); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Remove(%.20q): %v", id, err)
		}
		if err := l.Rootfs().Create(ctx, NewRootfs{ID: id, ChainID: img.ChainID, Record: []byte("{}")}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Create(%.20q): %v", id, err)
		}
	}
	if _, err := l.Rootfs().Mount(ctx, "absent"); !errdefs.IsNotFound(err) {
		t.Errorf("Mount of an absent one: %v", err)
	}
	if err := l.Rootfs().Update(ctx, "absent", nil); !errdefs.IsNotFound(err) {
		t.Errorf("Update of an absent one: %v", err)
	}
	if _, err := l.Rootfs().Usage(ctx, "absent"); !errdefs.IsNotFound(err) {
		t.Errorf("Usage of an absent one: %v", err)
	}
	if err := l.Rootfs().Create(ctx, NewRootfs{ID: "c", ImageID: "sha256:x", ChainID: "sha256:gone", Record: []byte("{}")}); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "pull it again") {
		t.Errorf("Create on an absent image: %v", err)
	}
	good := NewRootfs{ID: "c", ImageID: img.ID, Manifest: img.Manifest, ChainID: img.ChainID, Record: []byte("one")}
	if err := l.Rootfs().Create(ctx, good); err != nil {
		t.Fatal(err)
	}
	if err := l.Rootfs().Create(ctx, good); !errdefs.IsAlreadyExists(err) {
		t.Errorf("second Create: %v", err)
	}
	if err := l.Rootfs().Update(ctx, "c", []byte("two")); err != nil {
		t.Fatal(err)
	}
	if recs, err := l.Rootfs().Records(ctx); err != nil || len(recs) != 1 || string(recs["c"]) != "two" {
		t.Errorf("records are %q, %v", recs, err)
	}
	if err := l.Rootfs().Remove(ctx, "c"); err != nil {
		t.Fatal(err)
	}
	l.settled()
}

func TestImageWithoutLayers(t *testing.T) {
	l := newLab(t)
	img := l.pull(newReg(t).push("app:1", imageFor(t, v1.Config{Env: []string{"A=b"}}, platform())))
	if img.ChainID != "" || img.Size == 0 {
		t.Errorf("image is %+v", img)
	}
	root := l.mounted(img, "c")
	if err := os.WriteFile(filepath.Join(root, "x"), nil, 0o600); err != nil {
		t.Error(err)
	}
	l.reopen()
	if _, err := l.Get(context.Background(), img.ID); err != nil {
		t.Error(err)
	}
}

func TestSandboxRecords(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	for _, rec := range []string{"one", "two"} {
		if err := l.PutSandbox(ctx, "s", []byte(rec)); err != nil {
			t.Fatal(err)
		}
	}
	l.reopen()
	if recs, err := l.Sandboxes(ctx); err != nil || len(recs) != 1 || string(recs["s"]) != "two" {
		t.Errorf("records are %q, %v", recs, err)
	}
	if all, err := l.eng.Leases.List(l.eng.With(ctx)); err != nil || len(all) != 1 || all[0].ID != SandboxLease("s") {
		t.Errorf("leases are %v, %v", all, err)
	}
	if err := l.DeleteSandbox(ctx, "s"); err != nil {
		t.Fatal(err)
	}
	if err := l.DeleteSandbox(ctx, "s"); !errdefs.IsNotFound(err) {
		t.Errorf("second removal: %v", err)
	}
	l.empty()
}

func TestFsInfoFollowsTheImages(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	none, err := l.FsInfo(ctx)
	if err != nil || none.Bytes != 0 || none.Time.IsZero() || none.Mountpoint != filepath.Join(l.root, "lib") {
		t.Fatalf("%+v, %v", none, err)
	}
	ref := newReg(t).push("app:1", bigImage(t))
	l.pull(ref)
	if u, err := l.FsInfo(ctx); err != nil || u.Bytes < 8<<20 || u.Inodes < 5 {
		t.Errorf("with an image %+v, %v", u, err)
	}
	if err := errors.Join(l.Remove(ctx, ref), l.eng.Collect(ctx)); err != nil {
		t.Fatal(err)
	}
	l.usage.forget()
	if u, err := l.FsInfo(ctx); err != nil || u.Bytes != 0 {
		t.Errorf("without it %+v, %v", u, err)
	}
}

func TestPlatformOfAnIndex(t *testing.T) {
	l := newLab(t)
	r := newReg(t)
	mine := imageOf(t, layerOf(t, file{name: "mine", body: "x"}))
	idx := mutate.AppendManifests(emptyIndex(),
		mutate.IndexAddendum{Add: imageFor(t, v1.Config{}, "s390x"), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "s390x"}}},
		mutate.IndexAddendum{Add: mine, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: platform()}}})
	img := l.pull(r.pushIndex("app:1", idx))
	want, _ := mine.ConfigName()
	if img.ID != want.String() {
		t.Errorf("image is %s, want %s", img.ID, want)
	}
	d, _ := idx.Digest()
	if !strings.HasSuffix(img.RepoDigests[0], d.String()) {
		t.Errorf("digest is %s, want the index's %s", img.RepoDigests[0], d)
	}
	l.settled()
	l.reopen()
	if _, err := l.Get(context.Background(), want.String()); err != nil {
		t.Error(err)
	}
	foreign := mutate.AppendManifests(emptyIndex(), mutate.IndexAddendum{Add: imageFor(t, v1.Config{}, "s390x"), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "s390x"}}})
	if _, err := l.Pull(context.Background(), r.pushIndex("foreign:1", foreign), nil); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "it exists for: linux/s390x") {
		t.Errorf("error is %v", err)
	}
}

func TestPinned(t *testing.T) {
	r := newReg(t)
	ref := r.push("app:1", imageOf(t, layerOf(t, file{name: "a", body: "x"})))
	l := newLab(t, func(o *Options) { o.PinnedImages = []string{ref} })
	if !l.pull(ref).Pinned || l.pull(r.push("other:1", imageOf(t))).Pinned {
		t.Error("pinned is wrong")
	}
	if _, err := Open(context.Background(), Options{Engine: l.eng, StateDir: l.opts.StateDir, PinnedImages: []string{"A B"}}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("malformed pinned image: %v", err)
	}
}

// A container that nests its folders deeper than a path can be must not make its writable layer impossible to measure: the
// kubelet would not see what it stores there.
func TestTheUseOfADeepWritableLayerIsMeasured(t *testing.T) {
	l := newLab(t)
	r := newReg(t)
	r.push("app:1", imageOf(t, layerOf(t, file{name: "file", body: "x"})))
	path := l.mounted(l.pull(r.host()+"/app:1"), "deep")
	nest(t, path, 1500, 3<<20)
	use, err := l.Rootfs().Usage(context.Background(), "deep")
	if err != nil || use.Bytes < 3<<20 || use.Inodes < 1502 {
		t.Errorf("use is %+v, %v", use, err)
	}
	if _, err := l.Rootfs().Usage(context.Background(), "unknown"); !errdefs.IsNotFound(err) {
		t.Errorf("an unknown container: %v", err)
	}
}

// What a container leaves behind enters its sandbox's record in the commit that removes the container.
func TestRemovalIntoASandboxRecordIsOneCommit(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	img := l.pull(newReg(t).push("app:1", imageOf(t, layerOf(t, file{name: "f", body: "x"}))))
	if err := l.PutSandbox(ctx, "s", []byte("before")); err != nil {
		t.Fatal(err)
	}
	if err := l.Rootfs().Create(ctx, NewRootfs{ID: "c", ImageID: img.ID, Manifest: img.Manifest, ChainID: img.ChainID, Record: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	commit := func() (id int) {
		t.Helper()
		err := l.eng.View(ctx, func(ctx context.Context) error {
			tx, ok := boltutil.Transaction(ctx)
			if !ok {
				return errors.New("no transaction")
			}
			id = tx.ID()
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	if err := l.eng.Collect(ctx); err != nil { // what the pull asked for must not come in between
		t.Fatal(err)
	}
	before := commit()
	if err := l.Rootfs().RemoveInto(ctx, "c", "s", []byte("after")); err != nil {
		t.Fatal(err)
	}
	if made := commit() - before; made != 1 {
		t.Errorf("it took %d commits", made)
	}
	if recs, err := l.Rootfs().Records(ctx); err != nil || len(recs) != 0 {
		t.Errorf("container records are %q, %v", recs, err)
	}
	// Again, and into a sandbox that is gone: neither is an error, and no record comes back.
	for _, sandbox := range []string{"s", "gone"} {
		if err := l.Rootfs().RemoveInto(ctx, "c", sandbox, []byte("after")); err != nil {
			t.Error(err)
		}
	}
	if recs, err := l.Sandboxes(ctx); err != nil || len(recs) != 1 || string(recs["s"]) != "after" {
		t.Errorf("sandbox records are %q, %v", recs, err)
	}
	if err := l.DeleteSandbox(ctx, "s"); err != nil {
		t.Fatal(err)
	}
}
