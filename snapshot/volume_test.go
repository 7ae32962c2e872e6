package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// volumeLab is a store of volumes and a folder that stands for a root filesystem.
type volumeLab struct {
	*Volumes
	t    *testing.T
	root string
}

func newVolumeLab(t *testing.T) *volumeLab {
	t.Helper()
	needRoot(t)
	v, err := openVolumes(filepath.Join(t.TempDir(), "volumes"), 1<<20, 1000, quiet())
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(t.TempDir(), "fs")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	return &volumeLab{v, t, root}
}

// write makes a file of the root filesystem, and the folders above it.
func (l *volumeLab) write(name, content string) string {
	l.t.Helper()
	p := filepath.Join(l.root, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
		l.t.Fatal(err)
	}
	return p
}

func (l *volumeLab) link(target, name string) {
	l.t.Helper()
	p := filepath.Join(l.root, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.Symlink(target, p)); err != nil {
		l.t.Fatal(err)
	}
}

func (l *volumeLab) wants(id string, paths ...string) NewVolumes {
	return NewVolumes{Pod: "pod", Container: "app", ID: id, Rootfs: l.root, Paths: paths}
}

// prepared gives the folders of the volumes, in the order of the paths.
func (l *volumeLab) prepared(r NewVolumes) []Volume {
	l.t.Helper()
	got, err := l.Prepare(context.Background(), r)
	if err != nil {
		l.t.Fatal(err)
	}
	return got
}

// left gives all names below the folder of volumes, but those inside volumes.
func (l *volumeLab) left() (names []string) {
	l.t.Helper()
	for _, pattern := range []string{"*", "*/*", "*/*/*"} {
		found, err := filepath.Glob(filepath.Join(l.dir, pattern))
		if err != nil {
			l.t.Fatal(err)
		}
		for _, f := range found {
			names = append(names, strings.TrimPrefix(f, l.dir+"/"))
		}
	}
	slices.Sort(names)
	return names
}

func TestVolumesAreSeededOnceAndInherited(t *testing.T) {
	l := newVolumeLab(t)
	l.write("data/seed", "one")
	first := l.prepared(l.wants("first", "/data", "/missing"))
	if len(first) != 2 || read(t, first[0].Dir+"/seed") != "one" {
		t.Fatalf("the first container gets %+v", first)
	}
	if st := stat(t, first[1].Dir); st.Mode&0o7777 != 0o755 || st.Uid != 0 {
		t.Errorf("a folder that the image lacks has mode %o and owner %d", st.Mode, st.Uid)
	}
	if err := os.WriteFile(first[0].Dir+"/written", []byte("w"), 0o600); err != nil {
		t.Fatal(err)
	}
	l.write("data/seed", "two")
	l.write("more/seed", "two")
	second := l.prepared(l.wants("second", "/data", "/missing", "/more"))
	if second[0].Dir != first[0].Dir || read(t, second[0].Dir+"/seed") != "one" || read(t, second[0].Dir+"/written") != "w" {
		t.Errorf("the successor gets %+v", second)
	}
	if read(t, second[2].Dir+"/seed") != "two" {
		t.Error("a new volume is not seeded from the new image")
	}
	if got, err := l.Paths(context.Background(), "pod", "app"); err != nil || !slices.Equal(got, []string{"/data", "/missing", "/more"}) {
		t.Errorf("paths are %v, %v", got, err)
	}
	if got, err := l.Paths(context.Background(), "pod", "other"); err != nil || len(got) != 0 {
		t.Errorf("another container's paths are %v, %v", got, err)
	}
	for _, dir := range []string{l.dir, l.dir + "/pod", l.dir + "/pod/app", filepath.Dir(first[0].Dir)} {
		if st := stat(t, dir); st.Mode&0o077 != 0 {
			t.Errorf("%s has mode %o: users of the host get in", dir, st.Mode&0o777)
		}
	}
}

func TestAVolumeBelowAnInheritedOneHidesNothing(t *testing.T) {
	l := newVolumeLab(t)
	l.write("a/b/seed", "image")
	l.write("a/new/seed", "image")
	top := l.prepared(l.wants("first", "/a"))[0].Dir
	if err := errors.Join(os.WriteFile(top+"/b/written", nil, 0o600), os.RemoveAll(top+"/new"), os.Symlink("/etc", top+"/link")); err != nil {
		t.Fatal(err)
	}
	got := l.prepared(l.wants("second", "/a", "/a/b", "/a/link", "/a/new", "/a/link/below"))
	var paths []string
	for _, v := range got {
		paths = append(paths, v.Path)
	}
	if want := []string{"/a", "/a/new"}; !slices.Equal(paths, want) {
		t.Errorf("volumes are %v, want %v: what the first one wrote would be hidden", paths, want)
	}
	if read(t, got[1].Dir+"/seed") != "image" {
		t.Error("the new one is not seeded")
	}
	// Both new at once: each is a volume of its own.
	if got := l.prepared(NewVolumes{Pod: "pod", Container: "fresh", Rootfs: l.root, Paths: []string{"/a", "/a/b"}}); len(got) != 2 || read(t, got[1].Dir+"/seed") != "image" {
		t.Errorf("two nested ones give %+v", got)
	}
}

func TestAFailedMakingLeavesNothing(t *testing.T) {
	l := newVolumeLab(t)
	l.write("small/file", "x")
	l.write("file", "no folder")
	l.write("large/file", strings.Repeat("x", 1<<20))
	for i := range 1001 {
		l.write(fmt.Sprintf("many/%d", i), "")
	}
	for _, test := range []struct {
		path, mention string
		class         error
	}{
		{"/large", "upgrade.volume_seed_limit", errdefs.ErrResourceExhausted},
		{"/many", "upgrade.volume_seed_entries", errdefs.ErrResourceExhausted},
		{"/file", "no folder", errdefs.ErrInvalidArgument},
		{"/file/below", "no folder", errdefs.ErrInvalidArgument},
		{"relative", "absolute", errdefs.ErrInvalidArgument},
		{"/", "root", errdefs.ErrInvalidArgument},
		{"/a/../b", "clean", errdefs.ErrInvalidArgument},
	} {
		_, err := l.Prepare(context.Background(), l.wants("c", "/small", test.path))
		if err == nil || !strings.Contains(err.Error(), test.mention) || !strings.Contains(err.Error(), test.path) || !errors.Is(err, test.class) {
			t.Errorf("%s: %v; want %v that mentions it and %q", test.path, err, test.class, test.mention)
		}
		if got := l.left(); len(got) > 2 {
			t.Errorf("%s leaves %v", test.path, got)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := l.Prepare(ctx, l.wants("c", "/small")); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if got := l.left(); len(got) > 2 {
		t.Errorf("a cancelled making leaves %v", got)
	}
	// What a killed daemon left is begun anew.
	if err := errors.Join(os.MkdirAll(l.dir+"/pod/app/small%new/fs", 0o700), os.WriteFile(l.dir+"/pod/app/small%new/fs/half", nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	dir := l.prepared(l.wants("c", "/small"))[0].Dir
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 || entries[0].Name() != "file" {
		t.Errorf("the volume has %v, %v", entries, err)
	}
}

func TestAFullDiskIsNamedAndLeavesNothing(t *testing.T) {
	l := newVolumeLab(t)
	l.write("data/file", strings.Repeat("x", 600<<10))
	must(t, unix.Mount("tmpfs", l.dir, "tmpfs", 0, "size=512k"))
	defer func() { must(t, unix.Unmount(l.dir, unix.MNT_DETACH)) }()
	if _, err := l.Prepare(context.Background(), l.wants("c", "/data")); !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "disk") {
		t.Errorf("a full disk: %v", err)
	}
	if got := l.left(); len(got) > 2 {
		t.Errorf("it leaves %v", got)
	}
}

func TestHostileNamesAreRefused(t *testing.T) {
	l := newVolumeLab(t)
	ctx := context.Background()
	for _, name := range []string{"", ".", "..", "../../etc", "a/b", ".hidden", "a\x00b", "a\nb", "ü", strings.Repeat("x", 254), "%gone"} {
		if _, err := l.Prepare(ctx, NewVolumes{Pod: name, Container: "c", Rootfs: l.root, Paths: []string{"/a"}}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("UID %q: %v", name, err)
		}
		if _, err := l.Prepare(ctx, NewVolumes{Pod: "p", Container: name, Rootfs: l.root, Paths: []string{"/a"}}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("container %q: %v", name, err)
		}
		if err := l.Remove(ctx, name, func() bool { return false }); !errdefs.IsInvalidArgument(err) {
			t.Errorf("removal of UID %q: %v", name, err)
		}
		if _, err := l.Usage(ctx, name, "c"); !errdefs.IsInvalidArgument(err) {
			t.Errorf("use of UID %q: %v", name, err)
		}
	}
	if got := l.left(); len(got) != 0 {
		t.Errorf("they leave %v", got)
	}
}

func TestVolumesOfAFailedContainerAreTakenBackUnlessShared(t *testing.T) {
	l := newVolumeLab(t)
	ctx := context.Background()
	l.prepared(l.wants("running", "/kept"))
	l.prepared(l.wants("failed", "/kept", "/a", "/b"))
	l.prepared(l.wants("later", "/b"))
	if err := l.Withdraw(ctx, "pod", "failed"); err != nil {
		t.Fatal(err)
	}
	if got, err := l.Paths(ctx, "pod", "app"); err != nil || !slices.Equal(got, []string{"/b", "/kept"}) {
		t.Errorf("volumes are %v, %v: only /a was nobody else's", got, err)
	}
	if err := l.Withdraw(ctx, "pod", "failed"); err != nil {
		t.Errorf("again: %v", err)
	}
}

func TestOwnersFollowTheUserNamespace(t *testing.T) {
	l := newVolumeLab(t)
	mapping := func(host uint32) []IDMapping { return []IDMapping{{0, host, 65536}} }
	want := l.wants("c", "/new")
	want.UIDs, want.GIDs = mapping(100000), mapping(200000)
	got := l.prepared(want)[0]
	if st := stat(t, got.Dir); st.Uid != 100000 || st.Gid != 200000 {
		t.Errorf("an empty volume belongs to %d:%d", st.Uid, st.Gid)
	}
	if got.UIDs != nil || got.GIDs != nil {
		t.Errorf("the same mapping is translated: %+v", got)
	}
	want.UIDs, want.GIDs = mapping(300000), mapping(400000)
	got = l.prepared(want)[0]
	if !slices.Equal(got.UIDs, []IDMapping{{100000, 300000, 65536}}) || !slices.Equal(got.GIDs, []IDMapping{{200000, 400000, 65536}}) {
		t.Errorf("another mapping is translated as %+v", got)
	}
	want.UIDs = []IDMapping{{1000, 5000, 1}}
	if _, err := l.Prepare(context.Background(), func() NewVolumes { w := want; w.Paths = []string{"/other"}; return w }()); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a mapping without root: %v", err)
	}
}

func TestTranslatedMappings(t *testing.T) {
	m := func(v ...uint32) (out []IDMapping) {
		for ; len(v) > 0; v = v[3:] {
			out = append(out, IDMapping{v[0], v[1], v[2]})
		}
		return out
	}
	for _, test := range []struct {
		name          string
		was, is, want []IDMapping
	}{
		{"none before", nil, m(0, 1000, 10), m(0, 1000, 10)},
		{"none now", m(0, 1000, 10), nil, m(1000, 0, 10)},
		{"ranges that overlap in part", m(0, 1000, 10, 10, 5000, 10), m(5, 90000, 10), m(1005, 90000, 5, 5000, 90005, 5)},
		{"nothing in common", m(0, 1000, 10), m(10, 1000, 10), nil},
	} {
		got, err := translate(test.was, test.is)
		if !slices.Equal(got, test.want) || (err == nil) != (test.want != nil) {
			t.Errorf("%s: %v, %v; want %v", test.name, got, err, test.want)
		}
	}
}

func TestALostRecordLosesNoVolume(t *testing.T) {
	l := newVolumeLab(t)
	long := "/" + strings.Repeat("d/", 150)
	long = strings.TrimSuffix(long, "/")
	short, deep := l.prepared(l.wants("c", "/srv/data", long))[0].Dir, l.prepared(l.wants("c", long))[0].Dir
	if err := os.WriteFile(filepath.Join(filepath.Dir(short), recordFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := l.prepared(l.wants("d", "/srv/data"))[0].Dir; got != short {
		t.Errorf("the volume is %s, was %s", got, short)
	}
	if err := os.Remove(filepath.Join(filepath.Dir(deep), recordFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Prepare(context.Background(), l.wants("d", "/srv/data")); !errdefs.IsDataLoss(err) || !strings.Contains(err.Error(), filepath.Dir(deep)) {
		t.Errorf("a record whose path nothing else tells: %v", err)
	}
}

// The folder of volumes may have been made by hand, for a disk of its own.
func TestTheFolderOfVolumesIsClosed(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := openVolumes(dir, 1, 1, quiet()); err != nil {
		t.Fatal(err)
	}
	if st := stat(t, dir); st.Mode&0o7777 != 0o700 {
		t.Errorf("its mode is %o", st.Mode&0o7777)
	}
	if err := unix.Access(dir, unix.W_OK); err != nil {
		t.Error(err)
	}
}
