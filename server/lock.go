package server

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// maxFolderMode is the widest mode of root and state: others may pass through, not look.
const maxFolderMode = 0o711

// makeFolder makes dir, or takes away what its mode allows beyond maxFolderMode. A folder of somebody else is refused.
func makeFolder(dir string) error {
	if err := os.MkdirAll(dir, maxFolderMode); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("folder %s belongs to another user, who could change what is in it: give it to the daemon's, or name another: %w", dir, errdefs.ErrFailedPrecondition)
	}
	if mode := info.Mode().Perm(); mode&^maxFolderMode != 0 {
		if err := os.Chmod(dir, mode&maxFolderMode); err != nil {
			return fmt.Errorf("narrow the mode of %s: %w", dir, err)
		}
	}
	return nil
}

// inheritedLimit is how long a lock is waited for whose daemon is dead: what it had just forked has the lock until its execve.
const inheritedLimit = 5 * time.Second

// lock takes dir for this process (flock(2)) until the file is closed or the process ends, however it ends. If another
// daemon has it, the error (errdefs.ErrFailedPrecondition) names that one's pid; key says which setting to change.
func lock(dir, key string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock %s folder: %w", key, err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	for until := time.Now().Add(inheritedLimit); errors.Is(err, unix.EWOULDBLOCK) && !holderLives(f) && time.Now().Before(until); time.Sleep(10 * time.Millisecond) {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		defer f.Close()
		return nil, fmt.Errorf("%s folder %s is in use by %s: stop that one, or give this one another --%s: %w",
			key, dir, holder(f), key, errdefs.ErrFailedPrecondition)
	}
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s folder %s: %w", key, dir, err)
	}
	return f, nil
}

// holderLives says whether the process that wrote its pid into the lock file is there.
func holderLives(f *os.File) bool {
	b := make([]byte, 32)
	n, _ := f.ReadAt(b, 0)
	pid, err := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	if err != nil {
		return true // it has not come to that
	}
	st, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(st), ") ")
	return !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}

// holder describes the process that wrote its pid into the lock file.
func holder(f *os.File) string {
	b := make([]byte, 32)
	n, _ := f.ReadAt(b, 0)
	pid, err := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	if err != nil {
		return "another daemon"
	}
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return fmt.Sprintf("another daemon, pid %d", pid)
	}
	return fmt.Sprintf("pid %d (%s)", pid, strings.TrimSpace(string(comm)))
}
