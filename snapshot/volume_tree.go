package snapshot

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// removeDepth is how many folders are kept open on the way down. A folder that lies deeper is moved up first: a container
// can nest folders deeper than a process may have descriptors.
const removeDepth = 64

// Attributes of files (FS_IMMUTABLE_FL and FS_APPEND_FL of linux/fs.h).
const (
	immutableFlag = 0x10
	appendFlag    = 0x20
)

// removeTree removes a folder and all that is in it; what is absent is no error. No symlink is followed, and a file that a
// privileged container has made immutable goes too. Nothing may be added meanwhile.
func removeTree(dir string) error {
	top, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	f := os.NewFile(uintptr(top), dir)
	defer f.Close()
	// The names change while they are read: what was moved up may be missed, and the folder is read once more.
	for {
		n, err := emptyFolder(f, top, 0)
		if err != nil {
			return fmt.Errorf("remove %s: %w", dir, err)
		}
		if n == 0 {
			break
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return fmt.Errorf("remove %s: %w", dir, err)
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// emptyFolder removes or moves to top what is in an open folder, and gives the number of entries that there were.
func emptyFolder(dir *os.File, top, depth int) (n int, err error) {
	for {
		names, err := dir.Readdirnames(1024)
		if errors.Is(err, fs.ErrNotExist) { // so a removed folder reads
			return n, nil
		}
		for _, name := range names {
			n++
			if err := removeEntry(int(dir.Fd()), name, top, depth); err != nil {
				return n, fmt.Errorf("%.256q: %w", name, err)
			}
		}
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

func removeEntry(dir int, name string, top, depth int) error {
	err := unlink(dir, name, 0)
	if err == nil || !errors.Is(err, unix.EISDIR) {
		return err
	}
	if depth == removeDepth {
		if err := unix.Renameat(dir, name, top, randomHex()); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
		return nil
	}
	fd, err := openIn(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return nil // somebody else removes the same
	}
	if err != nil {
		return err
	}
	sub := os.NewFile(uintptr(fd), filepath.Base(name))
	defer sub.Close()
	for {
		n, err := emptyFolder(sub, top, depth+1)
		if err != nil {
			return err
		}
		if n == 0 {
			return unlink(dir, name, unix.AT_REMOVEDIR)
		}
		if _, err := sub.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
}

// unlink removes one entry; what is absent is no error.
func unlink(dir int, name string, flags int) error {
	err := unix.Unlinkat(dir, name, flags)
	if errors.Is(err, unix.EPERM) && mutable(dir, name) {
		err = unix.Unlinkat(dir, name, flags)
	}
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// mutable takes the attributes away that forbid to remove an entry (ioctl_iflags(2)): its own, and those of its folder.
func mutable(dir int, name string) (changed bool) {
	for _, at := range []struct {
		dir  int
		name string
	}{{dir, "."}, {dir, name}} {
		fd, err := openIn(at.dir, at.name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW)
		if err != nil {
			continue // a symlink or a socket, which has none
		}
		flags, err := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)
		if err == nil && flags&(immutableFlag|appendFlag) != 0 {
			changed = unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, flags&^(immutableFlag|appendFlag)) == nil || changed
		}
		_ = unix.Close(fd)
	}
	return changed
}
