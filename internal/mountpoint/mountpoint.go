// Package mountpoint makes and takes away the mounts of ours that no container is made of: small filesystems for what containers
// may write to, and pins.
package mountpoint

import (
	"errors"
	"fmt"
	"os"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Tmpfs makes the folder and mounts a tmpfs of at most size bytes and inodes files on it, unless the folder is there already.
// What root in a container writes into such a folder's files can fill no more than that: on the node's own tmpfs it would
// keep everybody else from working.
func Tmpfs(dir string, size, inodes int, mode os.FileMode) error {
	err := os.Mkdir(dir, mode)
	if errors.Is(err, os.ErrExist) {
		return mountUnlessUsed(dir, size, inodes, mode)
	}
	if err != nil {
		return err
	}
	return mount(dir, size, inodes, mode)
}

// mountUnlessUsed goes on where somebody was killed between folder and mount. A folder with something in it stays what it is.
func mountUnlessUsed(dir string, size, inodes int, mode os.FileMode) error {
	if mounted, err := mountinfo.Mounted(dir); err != nil || mounted {
		return err
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		return err
	}
	return mount(dir, size, inodes, mode)
}

func mount(dir string, size, inodes int, mode os.FileMode) error {
	options := fmt.Sprintf("mode=%o,size=%d,nr_inodes=%d", mode, size, inodes)
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("mount tmpfs at %s: %w", dir, err)
	}
	return nil
}

// Clear takes away all mounts on path, of which a daemon killed at the wrong time may have left several. That there is none,
// or no such path, is no error.
func Clear(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
}
