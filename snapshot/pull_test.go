package snapshot

import (
	"archive/tar"
	"context"
	"os"
	"path/filepath"
	"testing"
)

func simpleImage(t *testing.T) (ref string, r *reg) {
	r = newReg(t)
	base := layerOf(t, file{name: "etc/", kind: tar.TypeDir}, file{name: "etc/hostname", body: "base"}, file{name: "bin/true", body: "#!", mode: 0o755})
	top := layerOf(t, file{name: "etc/issue", body: "top"}, file{name: "etc/.wh.hostname"})
	return r.push("app:1", imageOf(t, base, top)), r
}

func TestPullMakesAnImagePresentUntilItIsRemoved(t *testing.T) {
	l := newLab(t)
	ref, _ := simpleImage(t)
	img := l.pull(ref)
	if img.Size == 0 || img.ID == "" || len(img.RepoTags) != 1 || img.RepoTags[0] != ref || len(img.RepoDigests) != 1 {
		t.Fatalf("image is %+v", img)
	}
	if img.Config.Config.Env[0] != "A=b" {
		t.Errorf("config is %+v", img.Config.Config)
	}
	for _, name := range []string{ref, img.ID, img.ID[7:], img.ID[7:12], img.RepoDigests[0]} {
		if got, err := l.Get(context.Background(), name); err != nil || got.ID != img.ID {
			t.Errorf("Get(%q) = %s, %v", name, got.ID, err)
		}
	}
	l.settled()
	l.reopen()
	if got, err := l.Get(context.Background(), ref); err != nil || got.Size != img.Size || got.ChainID != img.ChainID {
		t.Errorf("after a restart: %+v, %v", got, err)
	}
	if err := l.Remove(context.Background(), img.ID); err != nil {
		t.Fatal(err)
	}
	if err := l.Remove(context.Background(), img.ID); err != nil {
		t.Errorf("second removal: %v", err)
	}
	l.empty()
}

func TestRootfsShowsTheLayersAndOutlivesTheImage(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	ref, _ := simpleImage(t)
	img := l.pull(ref)
	root := l.mounted(img, "c1")
	if again, err := l.Rootfs().Mount(ctx, "c1"); err != nil || again != root {
		t.Errorf("second Mount: %q, %v", again, err)
	}
	if err := os.WriteFile(filepath.Join(root, "data"), make([]byte, 10000), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := l.Remove(ctx, ref); err != nil {
		t.Fatal(err)
	}
	if err := l.eng.Collect(ctx); err != nil {
		t.Fatal(err)
	}
	if got := read(t, filepath.Join(root, "etc/issue")); got != "top" {
		t.Errorf("etc/issue is %q", got)
	}
	if _, err := os.Lstat(filepath.Join(root, "etc/hostname")); !os.IsNotExist(err) {
		t.Errorf("a file that the upper layer removed is there: %v", err)
	}
	if u, err := l.Rootfs().Usage(ctx, "c1"); err != nil || u.Bytes < 10000 || u.Inodes < 2 {
		t.Errorf("usage is %+v, %v", u, err)
	}
	l.reopen()
	recs, err := l.Rootfs().Records(ctx)
	if err != nil || string(recs["c1"]) != "{}" {
		t.Errorf("records are %q, %v", recs, err)
	}
	for range 2 {
		if err := l.Rootfs().Remove(ctx, "c1"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Lstat(filepath.Dir(root)); !os.IsNotExist(err) {
		t.Errorf("mount point is left: %v", err)
	}
	l.empty()
}
