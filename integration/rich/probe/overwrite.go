package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// way is one way to a file that is mounted read-only. It gives the path to write to by it.
type way struct {
	name string
	to   func(file string) (path string, err error)
}

func ways() []way {
	return []way{
		{"as it is", func(file string) (string, error) { return file, nil }},
		{"by a descriptor", descriptor},
		{"by /proc/1/exe", ofPidOne},
		{"by the file of a program that ran", func(file string) (string, error) { return ofProgram(file, "exe") }},
		{"by the mapping of a program that ran", func(file string) (string, error) { return ofProgram(file, "map_files/*") }},
		{"mount remounted", func(file string) (string, error) { return file, remount(file, unix.MS_BIND, "") }},
		{"mount's attribute cleared", func(file string) (string, error) { return file, clearReadOnly(unix.AT_FDCWD, file, 0) }},
		{"filesystem remounted", func(file string) (string, error) { return file, remount(file, 0, "") }},
		{"filesystem reconfigured", func(file string) (string, error) { return file, reconfigure(file) }},
		{"filesystem mounted again", mountAgain},
		{"mounted elsewhere", boundElsewhere},
		{"mount cloned", cloned},
		{"mount moved", moved},
		{"in the mount namespace of pid 1", besidePidOne},
	}
}

// overwrite tries every way to change the file and prints what came of each.
func overwrite(file string) error {
	for _, w := range ways() {
		path, err := w.to(file)
		if path != "" { // what could not be prepared may not have been needed
			err = errors.Join(err, change(path))
		}
		if err == nil {
			err = errors.New("WRITTEN")
		}
		fmt.Printf("%s: %s\n", w.name, strings.ReplaceAll(err.Error(), "\n", ", "))
	}
	fmt.Println("all tried")
	return nil
}

// change writes to a file, or changes its mode where it is being run: that is a write to its inode,
// too.
func change(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil {
		defer f.Close()
		_, err = f.WriteString("overwritten")
	}
	if err == nil || os.Chmod(path, 0o711) == nil {
		fmt.Println("WRITTEN", path)
		return nil
	}
	return err
}

func descriptor(path string) (string, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("/proc/self/fd/%d", fd), nil
}

// ofPidOne is for a file that pid 1 runs.
func ofPidOne(file string) (string, error) {
	own, err := os.Stat("/proc/1/exe")
	if err != nil {
		return "", err
	}
	if wanted, err := os.Stat(file); err != nil || !os.SameFile(own, wanted) {
		return "", errors.Join(errors.New("another program"), err)
	}
	return descriptor("/proc/1/exe")
}

// ofProgram holds a file of /proc of a process that runs the program, and lets the program end: it
// is busy before.
func ofProgram(program, pattern string) (string, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.Command(program)
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true} // it stops before its first instruction
	if err := cmd.Start(); err != nil {
		return "", err
	}
	defer func() {
		_ = cmd.Process.Kill()
		_, _ = cmd.Process.Wait()
	}()
	if _, err := syscall.Wait4(cmd.Process.Pid, nil, 0, nil); err != nil {
		return "", err
	}
	list, err := filepath.Glob(fmt.Sprintf("/proc/%d/%s", cmd.Process.Pid, pattern))
	if err != nil || len(list) == 0 {
		return "", fmt.Errorf("%d files, %v", len(list), err)
	}
	return descriptor(list[0])
}

func remount(at string, flags uintptr, options string) error {
	return unix.Mount("", at, "", unix.MS_REMOUNT|flags, options)
}

func clearReadOnly(at int, path string, flags uint) error {
	return unix.MountSetattr(at, path, flags, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY})
}

// reconfigure is remount by the newer system calls, which look at one option at a time.
func reconfigure(file string) error {
	fs, err := unix.Fspick(unix.AT_FDCWD, file, unix.FSPICK_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fs)
	if err := unix.FsconfigSetFlag(fs, "rw"); err != nil {
		return err
	}
	return unix.FsconfigReconfigure(fs)
}

// mountAgain mounts the file's filesystem by what its mount says of it.
func mountAgain(file string) (string, error) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	at, err := os.MkdirTemp("", "again")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(table)) {
		own, super, _ := strings.Cut(strings.TrimSpace(line), " - ")
		f, s := strings.Fields(own), strings.SplitN(super, " ", 3)
		if len(f) > 4 && len(s) == 3 && f[4] == file {
			options := strings.TrimPrefix(strings.TrimPrefix(s[2], "ro,"), "rw,")
			return filepath.Join(at, f[3]), unix.Mount(s[1], at, s[0], 0, options)
		}
	}
	return "", errors.New("no mount of its own")
}

func empty() (string, error) {
	f, err := os.CreateTemp("", "mounted")
	if err != nil {
		return "", err
	}
	return f.Name(), f.Close()
}

func boundElsewhere(file string) (string, error) {
	at, err := empty()
	if err == nil {
		err = unix.Mount(file, at, "", unix.MS_BIND, "")
	}
	if err != nil {
		return "", err
	}
	return at, remount(at, unix.MS_BIND, "")
}

func cloned(file string) (string, error) {
	tree, err := unix.OpenTree(unix.AT_FDCWD, file, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("/proc/self/fd/%d", tree), clearReadOnly(tree, "", unix.AT_EMPTY_PATH)
}

func moved(file string) (string, error) {
	at, err := empty()
	if err == nil {
		err = unix.Mount(file, at, "", unix.MS_MOVE, "")
	}
	if err != nil {
		return "", err
	}
	return at, remount(at, unix.MS_BIND, "")
}

// besidePidOne goes where pid 1 is mounted, if that is another place, and makes all of that
// writable; on the way it changes the bounds of the filesystem.
func besidePidOne(file string) (string, error) {
	inside, ok := strings.CutPrefix(file, "/proc/1/root/")
	if !ok {
		return "", errors.New("not of pid 1")
	}
	ns, err := unix.Open("/proc/1/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	runtime.LockOSThread() // for good: the thread is elsewhere from now on
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return "", err
	}
	if err := unix.Setns(ns, unix.CLONE_NEWNS); err != nil {
		return "", err
	}
	if err := remount("/", 0, "size=77m"); err == nil {
		fmt.Println("WRITTEN the bounds of its filesystem")
	}
	err = remount("/", unix.MS_BIND, "")
	if f, err := os.Create("/new"); err == nil {
		f.Close()
		fmt.Println("WRITTEN /new")
	}
	return "/" + inside, err
}

// lease takes a write lease on the file, for which no capability is needed (fcntl(2)), and says
// when somebody else wants it.
func lease(file string) error {
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0) // never closed
	if err != nil {
		return err
	}
	wanted := make(chan os.Signal, 1)
	signal.Notify(wanted, unix.SIGIO)
	go func() {
		for range wanted {
			fmt.Println("wanted")
		}
	}()
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
		return err
	}
	_, err = fmt.Println("leased")
	return err
}

func immutable(file string) error {
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, 0x10)
}
