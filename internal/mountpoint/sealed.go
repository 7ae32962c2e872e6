package mountpoint

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Sealed shows the folder source at dir, which it makes, in a way that root in a container can
// never write to. That dir is mounted already is no error. Clear takes the mount away.
//
// The mount is an overlay of lower layers only, source and the empty dir itself. A read-only bind
// mount or tmpfs would not do: whoever has CAP_SYS_ADMIN makes the one writable by
// "remount,bind,rw" and the other by "remount,rw". An overlay without an upper layer has nowhere to
// write to, and the kernel refuses to make it writable (ovl_reconfigure). Its inodes are its own:
// neither /proc/PID/exe nor /proc/PID/map_files of a program in it lead to the file in source.
//
// A mount is for one container. An inode that two of them see lets the root of one hold up the
// other: an exec waits up to fs.lease-break-time for the end of a write lease, which needs no
// capability (fcntl(2), F_SETLEASE).
func Sealed(source, dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make folder for %s: %w", source, err)
	}
	if mounted, err := mountinfo.Mounted(dir); err != nil || mounted {
		return err
	}
	layers := "lowerdir=" + escape(source) + ":" + escape(dir)
	if err := unix.Mount("overlay", dir, "overlay", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, layers); err != nil {
		return fmt.Errorf("mount a read-only overlay of %s at %s (is %s on a filesystem that overlayfs takes as a lower layer?): %w", source, dir, source, err)
	}
	return nil
}

// escape writes a path so that overlayfs takes none of its characters for a separator.
func escape(path string) string {
	return strings.NewReplacer(`\`, `\\`, ":", `\:`, ",", `\,`).Replace(path)
}

// Writable makes a tmpfs that Tmpfs has mounted at dir writable again: through a single file of it
// that is mounted in a container, root there with CAP_SYS_ADMIN can make the whole of it read-only.
// That nothing is mounted, or no such path, is no error.
func Writable(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); errors.Is(err, unix.ENOENT) {
		return nil
	} else if err != nil {
		return fmt.Errorf("look at the filesystem of %s: %w", dir, err)
	}
	if st.Flags&unix.ST_RDONLY == 0 {
		return nil
	}
	if mounted, err := mountinfo.Mounted(dir); err != nil || !mounted {
		return err
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
		return fmt.Errorf("make the filesystem at %s writable again: %w", dir, err)
	}
	return nil
}
