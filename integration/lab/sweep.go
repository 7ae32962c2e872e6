package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// KillProcess kills a process and waits until it is gone. It is reached through a pidfd, so that a pid that was given to
// another process in the meantime is not hit.
func KillProcess(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); errors.Is(err, unix.ESRCH) {
		return nil
	} else if err != nil {
		return fmt.Errorf("kill process %d: %w", pid, err)
	}
	ended, err := awaitPidfd(ctx, fd, 10*time.Second)
	if err == nil && !ended {
		err = fmt.Errorf("process %d is still there after SIGKILL", pid)
	}
	return err
}

func awaitPidfd(ctx context.Context, fd int, limit time.Duration) (bool, error) {
	deadline := time.Now().Add(limit)
	for time.Now().Before(deadline) && ctx.Err() == nil {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return false, err
		}
		if n > 0 {
			return true, nil
		}
	}
	return false, ctx.Err()
}

// cgroupDirs gives every folder of the lab's cgroup parent, in every hierarchy, children first.
func cgroupDirs(name string) ([]string, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	var dirs []string
	for _, m := range mounts {
		for _, top := range []string{name, name + ".slice"} {
			err := filepath.WalkDir(filepath.Join(m.Mountpoint, top), func(path string, e fs.DirEntry, err error) error {
				if errors.Is(err, fs.ErrNotExist) {
					return nil
				}
				if err == nil && e.IsDir() && !seen[path] {
					seen[path] = true
					dirs = append(dirs, path)
				}
				return err
			})
			if err != nil {
				return nil, err
			}
		}
	}
	sort.Slice(dirs, func(i, j int) bool { return len(dirs[i]) > len(dirs[j]) })
	return dirs, nil
}

// Cgroups gives the cgroups below the pods' parent, by path, of all hierarchies.
func (l *Lab) Cgroups() ([]string, error) {
	dirs, err := cgroupDirs(l.Name)
	below := dirs[:0]
	for _, dir := range dirs {
		if base := filepath.Base(dir); base != l.Name && base != l.Name+".slice" {
			below = append(below, dir)
		}
	}
	return below, err
}

// Processes gives the processes in these cgroups as "PID COMMAND".
func (l *Lab) Processes() ([]string, error) {
	dirs, err := cgroupDirs(l.Name)
	seen := map[string]bool{}
	var found []string
	for _, dir := range dirs {
		b, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		for _, pid := range strings.Fields(string(b)) {
			comm, err := os.ReadFile(filepath.Join("/proc", pid, "comm"))
			if err == nil && !seen[pid] {
				seen[pid] = true
				found = append(found, pid+" "+strings.TrimSpace(string(comm)))
			}
		}
	}
	return found, err
}

// removeCgroups ends the processes below the lab's cgroup parent and removes it. Only a test that failed leaves any.
func removeCgroups(name string) error {
	dirs, err := cgroupDirs(name)
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range dirs {
		b, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		for _, field := range strings.Fields(string(b)) {
			pid, err := strconv.Atoi(field)
			if err != nil || pid == 0 {
				continue
			}
			if err := KillProcess(context.Background(), pid); err != nil {
				errs = append(errs, err)
			}
		}
		if err := rmdirBusy(dir); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// rmdirBusy removes a cgroup whose last process is being reaped at this moment.
func rmdirBusy(dir string) error {
	var err error
	for range 100 {
		if err = unix.Rmdir(dir); err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("remove cgroup %s: %w", dir, err)
}

// removeTree unmounts what is mounted below dir and removes it.
func removeTree(dir string) error {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return err
	}
	for i := len(mounts) - 1; i >= 0; i-- {
		if err := unix.Unmount(mounts[i].Mountpoint, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w", mounts[i].Mountpoint, err)
		}
	}
	return os.RemoveAll(dir)
}
