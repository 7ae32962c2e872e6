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

	"golang.org/x/sys/unix"
)

func never() bool { return false }

func TestVolumesGoWithTheirPod(t *testing.T) {
	l := newVolumeLab(t)
	ctx := context.Background()
	l.prepared(l.wants("c", "/data"))
	l.prepared(NewVolumes{Pod: "other", Container: "app", Rootfs: l.root, Paths: []string{"/data"}})
	must(t, l.Remove(ctx, "pod", func() bool { return true }))
	if got := l.left(); !slices.Contains(got, "pod/app/data") {
		t.Errorf("volumes that are still needed are gone: %v", got)
	}
	must(t, l.Remove(ctx, "pod", never), l.Remove(ctx, "pod", never), l.Remove(ctx, "unknown", never))
	if got := l.left(); !slices.Equal(got, []string{"other", "other/app", "other/app/data"}) {
		t.Errorf("left are %v", got)
	}
	if use, err := l.Usage(ctx, "pod", "app"); err != nil || use.Bytes != 0 {
		t.Errorf("the removed ones use %+v, %v", use, err)
	}
}

func TestSweepRemovesWhatBelongsToNobody(t *testing.T) {
	l := newVolumeLab(t)
	ctx := context.Background()
	l.prepared(l.wants("c", "/data"))
	l.prepared(NewVolumes{Pod: "former", Container: "app", Rootfs: l.root, Paths: []string{"/data"}})
	must(t, os.MkdirAll(l.dir+"/pod/app/half%new/fs", 0o700), os.MkdirAll(l.dir+"/0123%gone/app/data/fs", 0o700), os.WriteFile(l.dir+"/stray", nil, 0o600), os.Mkdir(l.dir+"/lost+found", 0o700))
	must(t, l.Sweep(func(pod string) bool { return pod == "pod" }), l.Purge(ctx))
	if got := l.left(); !slices.Equal(got, []string{"lost+found", "pod", "pod/app", "pod/app/data", "stray"}) {
		t.Errorf("left are %v; what is not ours stays", got)
	}
}

// A container can nest folders deeper than any path or table of descriptors: that hides neither bytes nor keeps anything from
// being removed.
func TestDeepTreesAreMeasuredAndRemoved(t *testing.T) {
	l := newVolumeLab(t)
	dir := l.prepared(l.wants("c", "/data"))[0].Dir
	const levels = 3000
	nest(t, dir, levels, 5<<20)
	var limit unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	few := limit
	few.Cur = 512
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &few))
	defer func() { must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)) }()
	use, err := l.Usage(context.Background(), "pod", "app")
	if err != nil || use.Bytes < 5<<20 || use.Inodes != levels+2 {
		t.Errorf("use is %+v, %v", use, err)
	}
	must(t, l.Remove(context.Background(), "pod", never))
	if got := l.left(); len(got) != 0 {
		t.Errorf("left are %v", got)
	}
}

// nest makes folders, one in the other, and a file of that size in the last of them.
func nest(t *testing.T, dir string, levels, size int) {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	must(t, err)
	for range levels {
		must(t, unix.Mkdirat(fd, "ddddd", 0o777))
		next, err := unix.Openat(fd, "ddddd", unix.O_PATH|unix.O_DIRECTORY, 0)
		must(t, err, unix.Close(fd))
		fd = next
	}
	out, err := unix.Openat(fd, "hidden", unix.O_CREAT|unix.O_WRONLY, 0o600)
	must(t, err)
	f := os.NewFile(uintptr(out), "hidden")
	_, err = f.Write(make([]byte, size))
	must(t, err, f.Sync(), f.Close(), unix.Close(fd))
}

func TestImmutableFilesAreRemoved(t *testing.T) {
	l := newVolumeLab(t)
	dir := l.prepared(l.wants("c", "/data"))[0].Dir
	must(t, os.MkdirAll(dir+"/sub/below", 0o700), os.WriteFile(dir+"/sub/file", nil, 0o600), os.WriteFile(dir+"/file", nil, 0o600))
	for name, flag := range map[string]int{"file": immutableFlag, "sub/file": appendFlag, "sub": immutableFlag} {
		f, err := os.Open(filepath.Join(dir, name))
		must(t, err)
		err = unix.IoctlSetPointerInt(int(f.Fd()), 0x40086602 /* FS_IOC_SETFLAGS */, flag)
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EOPNOTSUPP) {
			t.Skip("files cannot be made immutable here")
		}
		must(t, err, f.Close())
	}
	must(t, l.Remove(context.Background(), "pod", never))
	if got := l.left(); len(got) != 0 {
		t.Errorf("left are %v", got)
	}
}

func TestRemovalFollowsNoLink(t *testing.T) {
	l := newVolumeLab(t)
	outside := l.write("outside/file", "stays")
	dir := l.prepared(l.wants("c", "/data"))[0].Dir
	must(t, os.Symlink(filepath.Dir(outside), dir+"/link"), os.Link(outside, dir+"/file"), unix.Mkfifo(dir+"/pipe", 0o600), unix.Mknod(dir+"/socket", unix.S_IFSOCK|0o600, 0))
	for i := range 3000 {
		must(t, os.WriteFile(fmt.Sprintf("%s/%d", dir, i), nil, 0o600))
	}
	must(t, l.Remove(context.Background(), "pod", never))
	if got := l.left(); len(got) != 0 || read(t, outside) != "stays" {
		t.Errorf("left are %v", got)
	}
}

func TestUseCountsEachFileOnceAndIsKeptForAWhile(t *testing.T) {
	l := newVolumeLab(t)
	ctx := context.Background()
	if use, err := l.Usage(ctx, "pod", "app"); err != nil || use.Bytes != 0 || use.Inodes != 0 {
		t.Errorf("without volumes: %+v, %v", use, err)
	}
	got := l.prepared(l.wants("c", "/a", "/b"))
	must(t, os.WriteFile(got[0].Dir+"/file", []byte(strings.Repeat("x", 100_000)), 0o600), os.Link(got[0].Dir+"/file", got[0].Dir+"/again"),
		os.Symlink("file", got[1].Dir+"/link"))
	first, err := l.Usage(ctx, "pod", "app")
	if err != nil || first.Inodes != 4 || first.Bytes < 100_000 || first.Bytes > 150_000 {
		t.Errorf("use is %+v, %v; want 2 folders, 1 file, 1 link", first, err)
	}
	must(t, os.WriteFile(got[0].Dir+"/new", nil, 0o600))
	if again, err := l.Usage(ctx, "pod", "app"); err != nil || again != first {
		t.Errorf("a moment later it is measured again: %+v, %v", again, err)
	}
	l.prepared(l.wants("d", "/c"))
	if again, err := l.Usage(ctx, "pod", "app"); err != nil || again.Inodes != 6 {
		t.Errorf("with a new volume it is %+v, %v", again, err)
	}
}
