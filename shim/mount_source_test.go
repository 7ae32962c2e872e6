package shim

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"
)

// onOwnThread runs fn on a thread that ends with it.
func onOwnThread(fn func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		fn()
	}()
	<-done
}

func bind(source string, flags int) *configs.Mount {
	return &configs.Mount{Source: source, Destination: "/v", Device: "bind", Flags: unix.MS_BIND | flags}
}

func TestMountSourcesAreSeenByNobodyElse(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: a mount namespace is made")
	}
	dir, volume := t.TempDir(), t.TempDir()
	file := filepath.Join(volume, "file")
	if err := os.WriteFile(file, []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	proc := &configs.Mount{Source: "proc", Destination: "/proc", Device: "proc"}
	mounts := []*configs.Mount{bind(volume, 0), proc, bind(file, unix.MS_RDONLY)}
	onOwnThread(func() {
		home, err := os.Readlink("/proc/thread-self/ns/mnt")
		if err != nil {
			t.Error(err)
			return
		}
		sources, err := openSources(&launch{s: &Server{}}, mounts)
		if err != nil {
			t.Error(err)
			return
		}
		defer sources.close()
		if !sources.areLocal() {
			t.Error("the folder of tests is on no local file system")
		}
		if err := sources.clone(); err != nil {
			t.Error(err)
			return
		}
		leave, err := sources.attach(link)
		if err != nil {
			t.Error(err)
			return
		}
		replaced := sources.replaceIn(mounts)
		if b, err := os.ReadFile(filepath.Join(replaced[0].Source, "file")); err != nil || string(b) != "content" {
			t.Errorf("folder: %q, %v", b, err)
		}
		if b, err := os.ReadFile(replaced[2].Source); err != nil || string(b) != "content" {
			t.Errorf("file: %q, %v", b, err)
		}
		if replaced[1] != proc || replaced[2].Flags != mounts[2].Flags || mounts[0].Source != volume {
			t.Errorf("%+v, %+v, %+v", replaced[1], replaced[2], mounts[0])
		}
		// The others of this process are on the host.
		elsewhere := make(chan int)
		go func() {
			entries, _ := os.ReadDir(dir)
			elsewhere <- len(entries)
		}()
		if n := <-elsewhere; n != 0 {
			t.Errorf("%d mounts are seen on the host", n)
		}
		named := sources.name(&os.PathError{Op: "mount", Path: replaced[2].Source, Err: unix.EPERM})
		if !errors.Is(named, unix.EPERM) || named.Error() != "mount "+file+": operation not permitted" {
			t.Errorf("named %v", named)
		}
		for range 2 {
			if err := leave(); err != nil {
				t.Error(err)
			}
		}
		if at, err := os.Readlink("/proc/thread-self/ns/mnt"); err != nil || at != home {
			t.Errorf("after leaving it the thread is in %s, not in %s (%v)", at, home, err)
		}
	})
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

func TestAMountSourceThatIsAbsent(t *testing.T) {
	absent := filepath.Join(t.TempDir(), "absent")
	_, err := openSources(&launch{s: &Server{}}, []*configs.Mount{bind(absent, 0)})
	if !errors.Is(err, unix.ENOENT) || !strings.Contains(err.Error(), absent) || !strings.Contains(err.Error(), "/v") {
		t.Error(err)
	}
}

func TestLaunchesThatWaitForFileSystemsAreBounded(t *testing.T) {
	s := &Server{}
	s.reaching.Store(maxReaching)
	l := &launch{s: s}
	err := l.reach("/volume", func() error { t.Error("one more"); return nil })
	if !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "/volume") {
		t.Error(err)
	}
	s.reaching.Add(-1)
	if err := l.reach("/volume", func() error { return nil }); err != nil {
		t.Error(err)
	}
	if n := s.reaching.Load(); n != maxReaching-1 {
		t.Errorf("%d are counted", n)
	}
}
