package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// capability is a file capability without a root ID (struct vfs_cap_data, version 2): CAP_NET_BIND_SERVICE, effective.
var capability = []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

// acl gives user 1000 read and write (struct posix_acl_xattr_header, version 2).
var acl = []byte{2, 0, 0, 0,
	1, 0, 6, 0, 255, 255, 255, 255, // owner
	2, 0, 6, 0, 232, 3, 0, 0, // user 1000
	4, 0, 4, 0, 255, 255, 255, 255, // group
	16, 0, 6, 0, 255, 255, 255, 255, // mask
	32, 0, 4, 0, 255, 255, 255, 255, // others
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func attribute(t *testing.T, path, name string) []byte {
	t.Helper()
	b := make([]byte, 1024)
	n, err := unix.Lgetxattr(path, name, b)
	if err != nil {
		t.Errorf("%s of %s: %v", name, path, err)
		return nil
	}
	return b[:n]
}

func TestSeedingKeepsAllThatBelongsToAFile(t *testing.T) {
	l := newVolumeLab(t)
	at := l.root + "/data"
	file := l.write("data/dir/file", "content")
	l.write("data/tool", "#!")
	past := []unix.Timespec{{Sec: 1_000_000_000, Nsec: 123}, {Sec: 1_100_000_000, Nsec: 456}}
	must(t,
		os.Link(file, at+"/dir/other-name"), os.Symlink("/etc/passwd", at+"/link"), os.Symlink("../../../../etc", at+"/dir/up"),
		unix.Mkfifo(at+"/pipe", 0o620), os.Mkdir(at+"/closed", 0o700), os.Truncate(l.write("data/sparse", ""), 300_000),
		os.Lchown(at, 11, 12), os.Lchown(file, 1000, 1001), os.Lchown(at+"/link", 13, 14), os.Lchown(at+"/tool", 15, 16), os.Lchown(at+"/closed", 17, 18),
		os.Lchown(at+"/pipe", 19, 20),
		os.Chmod(at, 0o3771), os.Chmod(file, 0o640), os.Chmod(at+"/tool", 0o6755), os.Chmod(at+"/closed", 0o1500),
		unix.Chmod(at+"/tool", 0o6755), unix.Chmod(at, 0o3771), unix.Chmod(at+"/closed", 0o1500),
		unix.Lsetxattr(file, "user.note", []byte("kept"), 0), unix.Lsetxattr(at, "user.folder", []byte("kept too"), 0),
		unix.Lsetxattr(at+"/dir/file", "system.posix_acl_access", acl, 0), unix.Lsetxattr(at+"/closed", "system.posix_acl_default", acl, 0),
		unix.Lsetxattr(at+"/link", "trusted.note", []byte("of a link"), 0),
		unix.Lsetxattr(at+"/tool", "security.capability", capability, 0),
	)
	for _, name := range []string{"dir/file", "link", "pipe", "dir", "closed", "."} {
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(at, name), past, noFollow))
	}
	got := l.prepared(l.wants("c", "/data"))[0].Dir
	for _, name := range []string{".", "dir", "dir/file", "dir/other-name", "dir/up", "link", "pipe", "closed", "tool", "sparse"} {
		was, is := stat(t, filepath.Join(at, name)), stat(t, filepath.Join(got, name))
		if was.Mode != is.Mode || was.Uid != is.Uid || was.Gid != is.Gid || was.Nlink != is.Nlink || is.Mode&unix.S_IFMT == unix.S_IFREG && was.Size != is.Size {
			t.Errorf("%s was mode %o, owner %d:%d, %d links; is %o, %d:%d, %d", name, was.Mode, was.Uid, was.Gid, was.Nlink, is.Mode, is.Uid, is.Gid, is.Nlink)
		}
		if was.Mtim != is.Mtim {
			t.Errorf("%s was changed at %v, the copy at %v", name, was.Mtim, is.Mtim)
		}
	}
	if st := stat(t, got+"/dir/file"); st.Atim != past[0] || st.Ino != stat(t, got+"/dir/other-name").Ino {
		t.Errorf("the file: %+v", st)
	}
	if read(t, got+"/dir/file") != "content" {
		t.Error("the content differs")
	}
	for _, x := range []struct {
		name, attribute string
		want            []byte
	}{
		{"dir/file", "user.note", []byte("kept")}, {".", "user.folder", []byte("kept too")}, {"dir/file", "system.posix_acl_access", acl},
		{"closed", "system.posix_acl_default", acl}, {"link", "trusted.note", []byte("of a link")}, {"tool", "security.capability", capability},
	} {
		if v := attribute(t, filepath.Join(got, x.name), x.attribute); !bytes.Equal(v, x.want) {
			t.Errorf("%s of %s is %q, want %q", x.attribute, x.name, v, x.want)
		}
	}
	for name, want := range map[string]string{"link": "/etc/passwd", "dir/up": "../../../../etc"} {
		if target, err := os.Readlink(filepath.Join(got, name)); err != nil || target != want {
			t.Errorf("link %s leads to %q, %v", name, target, err)
		}
	}
}

// An image's VOLUME that is a symlink, or that lies below one, is followed inside the root filesystem only
// (CVE-2022-23648 copied the host's files).
func TestSeedingStaysInTheRoot(t *testing.T) {
	l := newVolumeLab(t)
	secret := filepath.Join(filepath.Dir(l.root), "secret")
	must(t, os.Mkdir(secret, 0o755), os.WriteFile(secret+"/key", []byte("host"), 0o644))
	l.write("inside/file", "image")
	l.link("../secret", "up")
	l.link(secret, "absolute")
	l.link("../../../../../../../../../.."+secret, "far")
	l.link("inside", "folder")
	l.link("/", "slash")
	for path, want := range map[string]string{"/up": "", "/absolute": "", "/far": "", "/absolute/below": "", "/folder": "file", "/slash/inside": "file"} {
		dir := l.prepared(l.wants("c", path))[0].Dir
		entries, err := os.ReadDir(dir)
		must(t, err)
		if names := fmt.Sprint(entries); (want == "") != (len(entries) == 0) || want != "" && entries[0].Name() != want {
			t.Errorf("the volume of %s has %s, want %q", path, names, want)
		}
	}
}

func TestDevicesAndSocketsAreLeftOut(t *testing.T) {
	l := newVolumeLab(t)
	l.write("data/file", "")
	must(t, unix.Mknod(l.root+"/data/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))), unix.Mknod(l.root+"/data/disk", unix.S_IFBLK|0o666, int(unix.Mkdev(7, 0))),
		unix.Mknod(l.root+"/data/socket", unix.S_IFSOCK|0o666, 0))
	entries, err := os.ReadDir(l.prepared(l.wants("c", "/data"))[0].Dir)
	if err != nil || len(entries) != 1 || entries[0].Name() != "file" {
		t.Errorf("the volume has %v, %v", entries, err)
	}
}

// The tree of a layer is as deep as a tar's names allow; no descriptor is kept for each level.
func TestDeepAndWideTreesAreSeeded(t *testing.T) {
	l := newVolumeLab(t)
	l.entries = 10_000
	deep := ""
	for range 900 {
		deep += "/d"
	}
	l.write("data"+deep+"/file", "deep")
	for i := range 3000 {
		l.write(fmt.Sprintf("data/wide/%d", i), "")
	}
	got := l.prepared(l.wants("c", "/data"))[0].Dir
	if read(t, got+deep+"/file") != "deep" {
		t.Error("the deepest file is not there")
	}
	if entries, err := os.ReadDir(got + "/wide"); err != nil || len(entries) != 3000 {
		t.Errorf("%d files, %v", len(entries), err)
	}
}

// The limits are for all new volumes of a container together: many volumes are no way around them.
func TestTheLimitIsForAllVolumesTogether(t *testing.T) {
	l := newVolumeLab(t)
	for _, d := range []string{"a", "b", "c"} {
		l.write(d+"/file", string(make([]byte, 400<<10)))
	}
	if _, err := l.Prepare(context.Background(), l.wants("c", "/a", "/b", "/c")); err == nil {
		t.Error("three volumes of 400 KiB fit into 1 MiB")
	}
	// A second name of a file is no second file.
	must(t, os.Link(l.root+"/a/file", l.root+"/a/again"), os.Link(l.root+"/a/file", l.root+"/a/more"))
	l.prepared(l.wants("c", "/a"))
}

// A file of this size takes no time where the limit is checked first.
func TestAHugeFileIsRefusedBeforeItIsCopied(t *testing.T) {
	l := newVolumeLab(t)
	must(t, os.Truncate(l.write("data/huge", ""), 1<<40))
	begun := time.Now()
	if _, err := l.Prepare(context.Background(), l.wants("c", "/data")); err == nil || time.Since(begun) > 10*time.Second {
		t.Errorf("after %s: %v", time.Since(begun), err)
	}
}
