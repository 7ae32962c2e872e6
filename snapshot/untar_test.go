package snapshot

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// merged pulls an image of these layers, each a list of entries, and gives its mounted root.
func merged(t *testing.T, layers ...[]file) (*lab, string) {
	t.Helper()
	l := newLab(t)
	r := newReg(t)
	var all []v1.Layer
	for _, files := range layers {
		all = append(all, layerOf(t, files...))
	}
	return l, l.mounted(l.pull(r.push("app:1", imageOf(t, all...))), "c")
}

// containerd 2.4.2 unpacks such layers in parallel with folders of root, 0755.
func TestImpliedFoldersKeepWhatTheLayersBelowSay(t *testing.T) {
	_, root := merged(t,
		[]file{
			{name: "./", kind: tar.TypeDir, mode: 0o751, uid: 3, gid: 4},
			{name: "tmp/", kind: tar.TypeDir, mode: 0o1777, uid: 5, gid: 6, xattrs: map[string]string{"user.pouch": "yes"}},
			{name: "srv/app/", kind: tar.TypeDir, mode: 0o2750, uid: 7, gid: 8},
			{name: "gone/", kind: tar.TypeDir, mode: 0o700, uid: 9, gid: 9},
			{name: "hidden/sub/", kind: tar.TypeDir, mode: 0o700, uid: 9, gid: 9},
		},
		[]file{{name: "tmp/one", body: "1"}, {name: ".wh.gone"}, {name: "hidden/.wh..wh..opq"}},
		[]file{{name: "tmp/two", body: "2"}, {name: "srv/app/bin/x", body: "x"}, {name: "gone/new", body: "n"}, {name: "hidden/sub/new", body: "n"}},
	)
	for _, c := range []struct {
		path     string
		mode     uint32
		uid, gid uint32
	}{
		{"tmp", 0o1777, 5, 6},
		{"srv", 0o755, 0, 0},
		{"srv/app", 0o2750, 7, 8},
		{"srv/app/bin", 0o755, 0, 0},
		{"gone", 0o755, 0, 0},
		{"hidden", 0o755, 0, 0},
		{"hidden/sub", 0o755, 0, 0},
	} {
		st := stat(t, filepath.Join(root, c.path))
		if st.Mode&0o7777 != c.mode || st.Uid != c.uid || st.Gid != c.gid {
			t.Errorf("/%s is %o of %d:%d, want %o of %d:%d", c.path, st.Mode&0o7777, st.Uid, st.Gid, c.mode, c.uid, c.gid)
		}
	}
	if got := xattr(filepath.Join(root, "tmp"), "user.pouch"); got != "yes" && got != "not supported" {
		t.Errorf("attribute of /tmp is %q", got)
	}
	for _, f := range []string{"tmp/one", "tmp/two", "gone/new"} {
		if _, err := os.Stat(filepath.Join(root, f)); err != nil {
			t.Error(err)
		}
	}
}

func TestRootOfTheUpperLayersIsThatOfTheLowest(t *testing.T) {
	l, _ := merged(t,
		[]file{{name: "./", kind: tar.TypeDir, mode: 0o711, uid: 3, gid: 4}, {name: "a", body: "a"}},
		[]file{{name: "b", body: "b"}},
	)
	dirs, err := l.lowerDirs(l.eng.With(context.Background()), l.index.list()[0].ChainID)
	if err != nil || len(dirs) != 2 {
		t.Fatal(dirs, err)
	}
	if st := stat(t, dirs[0]); st.Mode&0o7777 != 0o711 || st.Uid != 3 || st.Gid != 4 {
		t.Errorf("root of the upper layer is %o of %d:%d", st.Mode&0o7777, st.Uid, st.Gid)
	}
}

func xattr(path, name string) string {
	b := make([]byte, 256)
	n, err := unix.Lgetxattr(path, name, b)
	if errors.Is(err, unix.ENOTSUP) {
		return "not supported"
	}
	if err != nil {
		return ""
	}
	return string(b[:n])
}

func TestLayersMerge(t *testing.T) {
	_, root := merged(t,
		[]file{
			{name: "etc/conf", body: "old"}, {name: "etc/keep", body: "keep"}, {name: "opt/a/x", body: "x"}, {name: "opt/a/y", body: "y"},
			{name: "was-dir/f", body: "f"}, {name: "was-file", body: "f"}, {name: "replaced/old", body: "old"}, {name: "twice", body: "1"}, {name: "twice", body: "22"},
			{name: "bin/su", body: "su", mode: 0o4755}, {name: "bin/sudo", kind: tar.TypeLink, link: "bin/su"},
			{name: "lib", kind: tar.TypeSymlink, link: "usr/lib"}, {name: "lib/libc", body: "c"},
			{name: "null", kind: tar.TypeChar, major: 1, minor: 3, mode: 0o666}, {name: "pipe", kind: tar.TypeFifo},
		},
		[]file{
			{name: "etc/conf", body: "new"}, {name: "opt/.wh.a"}, {name: "opt/b", body: "b"},
			{name: ".wh.was-dir"}, {name: "was-dir", body: "file now"},
			{name: ".wh.was-file"}, {name: "was-file/", kind: tar.TypeDir}, {name: "was-file/in", body: "in"},
			{name: ".wh.replaced"}, {name: "replaced/", kind: tar.TypeDir}, {name: "replaced/new", body: "new"},
			{name: "fresh", body: "f"}, {name: ".wh.fresh"}, // of the same layer: it stays
		},
	)
	for path, want := range map[string]string{
		"etc/conf": "new", "etc/keep": "keep", "opt/b": "b", "was-dir": "file now", "was-file/in": "in", "replaced/new": "new",
		"twice": "22", "usr/lib/libc": "c", "fresh": "f", "bin/sudo": "su",
	} {
		if got := read(t, filepath.Join(root, path)); got != want {
			t.Errorf("/%s is %q, want %q", path, got, want)
		}
	}
	for _, path := range []string{"opt/a", "replaced/old"} {
		if _, err := os.Lstat(filepath.Join(root, path)); !os.IsNotExist(err) {
			t.Errorf("/%s is there: %v", path, err)
		}
	}
	su, sudo := stat(t, filepath.Join(root, "bin/su")), stat(t, filepath.Join(root, "bin/sudo"))
	if su.Ino != sudo.Ino || su.Mode&0o7777 != 0o4755 {
		t.Errorf("hard link or set-id bit is lost: %o, inodes %d %d", su.Mode, su.Ino, sudo.Ino)
	}
	if st := stat(t, filepath.Join(root, "null")); st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(1, 3) || st.Mode&0o777 != 0o666 {
		t.Errorf("device is %o %#x", st.Mode, st.Rdev)
	}
	if st := stat(t, filepath.Join(root, "etc/keep")); st.Mtim.Sec != 1_600_000_000 {
		t.Errorf("time is %d", st.Mtim.Sec)
	}
}

func TestOpaqueRootHidesEverythingBelow(t *testing.T) {
	_, root := merged(t,
		[]file{{name: "old", body: "o"}, {name: "etc/", kind: tar.TypeDir, mode: 0o700}, {name: "etc/old", body: "o"}},
		[]file{{name: ".wh..wh..opq"}, {name: "etc/new", body: "n"}},
	)
	if got := names(t, root); fmt.Sprint(got) != "[etc]" {
		t.Errorf("root has %v", got)
	}
	if got := names(t, filepath.Join(root, "etc")); fmt.Sprint(got) != "[new]" {
		t.Errorf("etc has %v", got)
	}
	if st := stat(t, filepath.Join(root, "etc")); st.Mode&0o777 != 0o755 {
		t.Errorf("etc is %o", st.Mode&0o777)
	}
}

func names(t *testing.T, dir string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

// unpackIn unpacks a tar into dir/root, beside which dir/outside must not change.
func unpackIn(t *testing.T, upper bool, files ...file) (root string, _ tree, err error) {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	root = filepath.Join(dir, "root")
	outside := filepath.Join(dir, "outside")
	for _, d := range []string{root, outside} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	victim := filepath.Join(outside, "victim")
	if err := os.WriteFile(victim, []byte("safe"), 0o640); err != nil {
		t.Fatal(err)
	}
	for i := range files {
		files[i].link = expand(files[i].link, outside)
		files[i].name = expand(files[i].name, outside)
	}
	before := stat(t, outside)
	tr, err := untar(bytes.NewReader(tarOf(t, files...)), root, upper)
	if got := read(t, victim); got != "safe" {
		t.Errorf("a file outside was changed: %q", got)
	}
	if st := stat(t, victim); st.Mode&0o7777 != 0o640 || st.Uid != 0 || st.Nlink != 1 {
		t.Errorf("a file outside was changed: %o of %d, %d links", st.Mode&0o7777, st.Uid, st.Nlink)
	}
	if got := names(t, outside); len(got) != 1 {
		t.Errorf("something was made outside: %v", got)
	}
	if st := stat(t, outside); st.Mode != before.Mode || st.Uid != before.Uid {
		t.Errorf("a folder outside was changed: %o of %d", st.Mode, st.Uid)
	}
	return root, tr, err
}

func expand(s, outside string) string {
	return os.Expand(s, func(k string) string {
		if k == "outside" {
			return outside
		}
		return "$" + k
	})
}

func TestHostileLayersStayInside(t *testing.T) {
	for name, files := range map[string][]file{
		"dots":                          {{name: "../outside/victim", body: "x"}, {name: "a/../../outside/new", body: "x"}},
		"absolute name":                 {{name: "${outside}/victim", body: "x"}},
		"absolute symlink":              {{name: "l", kind: tar.TypeSymlink, link: "${outside}"}, {name: "l/victim", body: "x"}},
		"relative symlink":              {{name: "l", kind: tar.TypeSymlink, link: "../outside"}, {name: "l/victim", body: "x"}},
		"symlink in a folder":           {{name: "d/l", kind: tar.TypeSymlink, link: "../../outside"}, {name: "d/l/victim", body: "x"}, {name: "d/l/new", body: "x"}},
		"file over a symlink":           {{name: "l", kind: tar.TypeSymlink, link: "${outside}/victim"}, {name: "l", body: "x"}},
		"folder over a symlink":         {{name: "l", kind: tar.TypeSymlink, link: "${outside}"}, {name: "l/", kind: tar.TypeDir, mode: 0o777, uid: 9}},
		"symlink to a symlink":          {{name: "a", kind: tar.TypeSymlink, link: "b"}, {name: "b", kind: tar.TypeSymlink, link: "${outside}"}, {name: "a/victim", body: "x"}},
		"whiteout through a symlink":    {{name: "l", kind: tar.TypeSymlink, link: "${outside}"}, {name: "l/.wh.victim"}},
		"opaque through a symlink":      {{name: "l", kind: tar.TypeSymlink, link: "${outside}"}, {name: "l/.wh..wh..opq"}},
		"removal through a symlink":     {{name: "l", kind: tar.TypeSymlink, link: "${outside}"}, {name: "l", kind: tar.TypeFifo}},
		"mode through a symlink":        {{name: "l", kind: tar.TypeSymlink, link: "${outside}/victim", mode: 0o777, uid: 7}},
		"tree with a symlink replaced":  {{name: "d/l", kind: tar.TypeSymlink, link: "${outside}"}, {name: "d", body: "file"}},
		"proc":                          {{name: "l", kind: tar.TypeSymlink, link: "/proc/self/cwd"}, {name: "l/x", body: "x"}},
		"whiteout with dots":            {{name: ".wh...", body: ""}},
		"hard link to a file's symlink": {{name: "l", kind: tar.TypeSymlink, link: "${outside}/victim"}, {name: "h", kind: tar.TypeLink, link: "l"}, {name: "h", body: "x", mode: 0o777}},
	} {
		for _, upper := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/upper=%v", name, upper), func(t *testing.T) {
				_, _, err := unpackIn(t, upper, files...)
				if err != nil && !errdefs.IsInvalidArgument(err) {
					t.Errorf("error without a class: %v", err)
				}
			})
		}
	}
}

func TestHostileLayersAreRefused(t *testing.T) {
	for name, files := range map[string][]file{
		"hard link outside":             {{name: "h", kind: tar.TypeLink, link: "${outside}/victim"}},
		"hard link outside by dots":     {{name: "h", kind: tar.TypeLink, link: "../outside/victim"}},
		"hard link through a symlink":   {{name: "l", kind: tar.TypeSymlink, link: "${outside}"}, {name: "h", kind: tar.TypeLink, link: "l/victim"}},
		"hard link to the root":         {{name: "h", kind: tar.TypeLink, link: "/"}},
		"hard link to a folder":         {{name: "d/", kind: tar.TypeDir}, {name: "h", kind: tar.TypeLink, link: "d"}},
		"file as a folder":              {{name: "f", body: "x"}, {name: "f/g", body: "y"}},
		"loop of symlinks":              {{name: "a", kind: tar.TypeSymlink, link: "b"}, {name: "b", kind: tar.TypeSymlink, link: "a"}, {name: "a/x", body: "x"}},
		"long name":                     {{name: string(bytes.Repeat([]byte("n"), 300)), body: "x"}},
		"whiteout of nothing":           {{name: "a/.wh."}},
		"symlinks that grow each other": {{name: "s", kind: tar.TypeSymlink, link: "s/s/x"}, {name: "s/y", body: "x"}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := unpackIn(t, true, files...); err == nil {
				t.Error("unpacked")
			} else if !errdefs.IsInvalidArgument(err) && !errors.Is(err, unix.EPERM) {
				t.Errorf("error without a class: %v", err)
			}
		})
	}
}

func TestXattrsThatSpeakToTheKernelAreDropped(t *testing.T) {
	capability := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" // CAP_NET_BIND_SERVICE, version 2
	root, _, err := unpackIn(t, true, file{name: "f", body: "x", uid: 5, xattrs: map[string]string{
		"user.ok": "1", "security.capability": capability, "trusted.overlay.redirect": "/etc", "trusted.overlay.metacopy": "", "user.overlay.opaque": "y", "security.selinux": "x",
	}}, file{name: "d/", kind: tar.TypeDir, xattrs: map[string]string{"trusted.overlay.opaque": "y", "trusted.overlay.redirect": "/etc", "user.ok": "2"}})
	if err != nil {
		t.Fatal(err)
	}
	f, d := filepath.Join(root, "f"), filepath.Join(root, "d")
	if got := xattr(f, "user.ok"); got != "1" && got != "not supported" {
		t.Errorf("user.ok is %q", got)
	}
	if got := xattr(f, "security.capability"); got != capability {
		t.Errorf("capability is %q (a change of owner after it takes it away)", got)
	}
	for _, c := range [][2]string{{f, "trusted.overlay.redirect"}, {f, "trusted.overlay.metacopy"}, {f, "user.overlay.opaque"}, {d, "trusted.overlay.opaque"}, {d, "trusted.overlay.redirect"}} {
		if _, err := unix.Lgetxattr(c[0], c[1], nil); !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.ENOTSUP) {
			t.Errorf("%s of %s was set: %v", c[1], c[0], err)
		}
	}
	if got := xattr(f, "security.selinux"); got == "x" {
		t.Error("security.selinux was set")
	}
}

func TestUntarCountsWhatItWrites(t *testing.T) {
	_, tr, err := unpackIn(t, false, file{name: "a/b/c", body: "12345"}, file{name: "a/", kind: tar.TypeDir}, file{name: "e", kind: tar.TypeSymlink, link: "x"})
	if err != nil {
		t.Fatal(err)
	}
	if tr.usage.Inodes != 5 || tr.usage.Size != 4*block { // root, a, b, c, e
		t.Errorf("usage is %+v", tr.usage)
	}
	if fmt.Sprint(tr.implied) != "[ a/b]" {
		t.Errorf("implied are %q", tr.implied)
	}
}

func TestManyFoldersAndReplacedOnes(t *testing.T) {
	var files []file
	for i := range 3 * maxDirs {
		files = append(files, file{name: fmt.Sprintf("d%d/s/f", i), body: "1"}, file{name: fmt.Sprintf("d%d/l", i), kind: tar.TypeLink, link: fmt.Sprintf("d%d/s/f", i/2)})
	}
	files = append(files, file{name: "d7", body: "a file now"}, file{name: "d7", kind: tar.TypeSymlink, link: "d8"}, file{name: "d7/s/f", body: "8"})
	root, _, err := unpackIn(t, false, files...)
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, filepath.Join(root, "d8/s/f")); got != "8" {
		t.Errorf("through the symlink: %q", got)
	}
	if got := len(names(t, root)); got != 3*maxDirs {
		t.Errorf("%d entries", got)
	}
}

func FuzzUntar(f *testing.F) {
	if os.Getuid() != 0 {
		f.Skip("needs root: owners")
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []tar.Header{
		{Name: "d/", Typeflag: tar.TypeDir}, {Name: "d/l", Typeflag: tar.TypeSymlink, Linkname: "../../x"}, {Name: "d/l/y", Typeflag: tar.TypeFifo},
		{Name: "h", Typeflag: tar.TypeLink, Linkname: "d/l"}, {Name: "d/.wh.z", Typeflag: tar.TypeFifo}, {Name: ".wh..wh..opq", Typeflag: tar.TypeFifo},
	} {
		if err := w.WriteHeader(&h); err != nil {
			f.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes(), true)
	f.Fuzz(func(t *testing.T, data []byte, upper bool) {
		dir := t.TempDir()
		root := filepath.Join(dir, "a", "b")
		if err := os.MkdirAll(root, 0o755); err != nil {
			t.Fatal(err)
		}
		_, _ = untar(bytes.NewReader(data), root, upper)
		if len(names(t, dir)) != 1 || len(names(t, filepath.Join(dir, "a"))) != 1 {
			t.Error("something was made outside")
		}
	})
}
