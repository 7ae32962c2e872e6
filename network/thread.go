package network

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/crash"
)

// onThread runs fn on a thread that ends with it, so that whatever fn does to the thread (unshare, setns, setresuid)
// is seen by nothing else. It never is the main thread: that one cannot end, and /proc/PID/ns speaks of it.
func onThread(fn func() error) error {
	done := make(chan error, 1)
	crash.Go(nil, "work on a thread of its own", func() {
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			// While this goroutine holds the main thread, the next one gets another.
			done <- onThread(fn)
			runtime.UnlockOSThread()
			return
		}
		// No unlock: Go ends a thread whose goroutine ends locked.
		done <- crash.Try(nil, "work on a thread of its own", fn)
	})
	return <-done
}

// inNewNamespaces makes the given namespaces for pod and runs fn on a thread inside them (the user namespace excepted,
// which a thread cannot enter). nsDir has their files, as /proc/PID/ns; the namespaces end with fn unless they are pinned.
func inNewNamespaces(pod Pod, own []kind, fn func(nsDir string) error) error {
	return onThread(func() error {
		if len(pod.UIDs) > 0 {
			return inChildsNamespaces(pod, own, fn)
		}
		if err := unix.Unshare(int(flagsOf(own))); err != nil {
			return fmt.Errorf("make namespaces of sandbox %s: %w", pod.ID, err)
		}
		return fn("/proc/thread-self/ns")
	})
}

func flagsOf(list []kind) uintptr {
	var flags uintptr
	for _, k := range list {
		flags |= k.flag
	}
	return flags
}

// inChildsNamespaces makes the namespaces with a child of this process: a user namespace can be made by a process with
// one thread only, which no Go program is. The kernel makes the user namespace first and gives it the others, and Go's
// runtime writes the ID maps before the child goes on.
//
// The child never runs an instruction of user space. It is traced from its birth, so that the exec of this very program
// (the one file that is surely there) stops before its first instruction, and there it is killed. Should this process
// die in between, the parent-death signal kills the child, and the arguments make the program end at once.
func inChildsNamespaces(pod Pod, own []kind, fn func(nsDir string) error) error {
	pid, err := syscall.ForkExec("/proc/self/exe", []string{"cri-pouch", "--no-such-flag"}, &syscall.ProcAttr{
		Dir: "/",
		Env: []string{},
		Sys: &syscall.SysProcAttr{
			Cloneflags: flagsOf(own), UidMappings: procMap(pod.UIDs), GidMappings: procMap(pod.GIDs), GidMappingsEnableSetgroups: true,
			Ptrace: true, Pdeathsig: syscall.SIGKILL, Setsid: true,
		},
	})
	if err != nil {
		var class error = errdefs.ErrFailedPrecondition
		if errors.Is(err, syscall.EINVAL) {
			class = errdefs.ErrInvalidArgument
		}
		return fmt.Errorf("make user namespace of sandbox %s (see user.max_user_namespaces, kernel.yama.ptrace_scope and the ID mappings): %w: %w", pod.ID, err, class)
	}
	defer func() {
		_ = unix.Kill(pid, unix.SIGKILL)
		_, _ = wait(pid)
	}()
	if status, err := wait(pid); err != nil || !status.Stopped() {
		return fmt.Errorf("make user namespace of sandbox %s: the child ended early (status %#x, %v)", pod.ID, status, err)
	}
	nsDir := filepath.Join("/proc", strconv.Itoa(pid), "ns")
	for _, k := range own {
		if k.flag == unix.CLONE_NEWUSER {
			continue
		}
		if err := enter(filepath.Join(nsDir, k.name), k.flag); err != nil {
			return fmt.Errorf("enter new %s namespace of sandbox %s: %w", k.name, pod.ID, err)
		}
	}
	return fn(nsDir)
}

// wait waits for the next stop or the end of a traced child; __WALL because it is asked for by its tracing thread.
func wait(pid int) (unix.WaitStatus, error) {
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &status, unix.WALL, nil)
		if !errors.Is(err, unix.EINTR) {
			return status, err
		}
	}
}

// enter moves the calling thread into the namespace that path pins.
func enter(path string, flag uintptr) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Setns(fd, int(flag))
}

func procMap(ids []IDMapping) []syscall.SysProcIDMap {
	var list []syscall.SysProcIDMap
	for _, id := range ids {
		list = append(list, syscall.SysProcIDMap{ContainerID: int(id.ContainerID), HostID: int(id.HostID), Size: int(id.Length)})
	}
	return list
}
