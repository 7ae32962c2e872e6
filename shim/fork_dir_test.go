package shim

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
)

// TestMain lets this program also be what libcontainer forks: an init that waits to be killed, or a further process that tells its
// working directory and ends.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "init" {
		if os.Getenv("_LIBCONTAINER_INITTYPE") == "standard" {
			time.Sleep(time.Minute)
		}
		cwd, _ := os.Getwd()
		_, _ = os.NewFile(3, "told").WriteString(cwd)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// errSeen ends a start as soon as the process has been forked.
var errSeen = errors.New("it has been forked")

// forkRecorder is a cgroup manager that looks at an init when libcontainer has forked it.
type forkRecorder struct {
	cgroups.Manager
	config      *configs.Config
	rootfs, cwd string // as they are then
}

func (r *forkRecorder) Path(string) string { return "" }

func (r *forkRecorder) Apply(pid int) error {
	r.rootfs = r.config.Rootfs
	cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
	r.cwd = cwd
	return errors.Join(errSeen, err)
}

// created gives an object of libcontainer's whose cgroup manager records forks.
func created(t *testing.T) (*libcontainer.Container, *forkRecorder) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: processes are forked by libcontainer")
	}
	config := &configs.Config{
		Cgroups: &cgroups.Cgroup{Path: "/fork-dir-test", Resources: &cgroups.Resources{}},
		Rootfs:  t.TempDir(), Namespaces: configs.Namespaces{{Type: configs.NEWPID}},
	}
	lc, err := libcontainer.Create(t.TempDir(), "c", config)
	if err != nil {
		t.Fatal(err)
	}
	if held, err := configOf(lc); err != nil || held != config {
		t.Fatalf("libcontainer keeps another configuration than it was given (%v)", err)
	}
	manager, err := managerOf(lc)
	if err != nil {
		t.Fatal(err)
	}
	recorder := &forkRecorder{Manager: *manager, config: config}
	*manager = recorder
	return lc, recorder
}

// When one of these fails with a new libcontainer, read how it forks (newParentProcess, initProcess.start) before anything else: a
// root filesystem that hangs may stop the shim, or an init may be given another root than its own.

func TestAnInitIsForkedOutsideItsRootFilesystem(t *testing.T) {
	lc, recorder := created(t)
	rootfs, dir := recorder.config.Rootfs, t.TempDir()
	forked := 0
	err := startFirst(dir, lc, &libcontainer.Process{Args: []string{"true"}, Init: true}, func() error {
		forked++
		return nil
	})
	if !errors.Is(err, errSeen) {
		t.Fatalf("libcontainer does not ask the cgroup manager right after the fork: %v", err)
	}
	if forked != 1 || recorder.cwd != dir {
		t.Errorf("told %d times of a fork, in %s instead of %s", forked, recorder.cwd, dir)
	}
	if recorder.rootfs != rootfs {
		t.Errorf("the init would be sent %s for its root filesystem instead of %s", recorder.rootfs, rootfs)
	}
	if manager, err := managerOf(lc); err != nil || *manager != cgroups.Manager(recorder) || recorder.config.Rootfs != rootfs {
		t.Errorf("after the start the manager is a %T, the root filesystem %s (%v)", *manager, recorder.config.Rootfs, err)
	}
}

func TestAFurtherProcessIsForkedOutsideTheRootFilesystem(t *testing.T) {
	lc, recorder := created(t)
	rootfs, dir := recorder.config.Rootfs, t.TempDir()
	told, err := os.Create(filepath.Join(t.TempDir(), "told"))
	if err != nil {
		t.Fatal(err)
	}
	defer told.Close()
	if err := startFurther(dir, lc, &libcontainer.Process{Args: []string{"true"}, ExtraFiles: []*os.File{told}}); err == nil {
		t.Fatal("this program has become a container's process")
	}
	if cwd, err := os.ReadFile(told.Name()); err != nil || string(cwd) != dir {
		t.Errorf("forked in %q instead of %s (%v)", cwd, dir, err)
	}
	if recorder.config.Rootfs != rootfs {
		t.Errorf("after the start the root filesystem is %s", recorder.config.Rootfs)
	}
}

func TestAnInitEndsWhenItsThreadCannotReturn(t *testing.T) {
	lc, recorder := created(t)
	failed := errors.New("no way back")
	err := startFirst(t.TempDir(), lc, &libcontainer.Process{Args: []string{"true"}, Init: true}, func() error { return failed })
	if !errors.Is(err, failed) || recorder.cwd != "" {
		t.Errorf("it goes on although its thread is in another mount namespace: %v", err)
	}
}
