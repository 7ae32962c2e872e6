package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// lowerDirs gives the folders of the snapshot chain and of those below it, topmost first.
func (s *Store) lowerDirs(ctx context.Context, chain string) ([]string, error) {
	var dirs []string
	for chain != "" {
		dir, parent, err := s.eng.UpperDir(ctx, chain)
		if err != nil {
			return nil, err
		}
		dirs = append(dirs, dir)
		chain = parent
	}
	return dirs, nil
}

// inherit makes a layer that was unpacked on its own fit onto the layers below: folders that its tar only implies get
// the owner, mode and attributes that they have there, and a marker that hides the whole root becomes whiteouts. It
// says whether anything had to be changed.
func inherit(upper string, t tree, lower []string) (changed bool, err error) {
	if len(t.implied) == 0 && !t.opaque {
		return false, nil
	}
	top, err := openRoot(upper)
	if err != nil {
		return false, err
	}
	defer unix.Close(top)
	below := make([]int, 0, len(lower))
	defer func() {
		for _, fd := range below {
			_ = unix.Close(fd)
		}
	}()
	for _, dir := range lower {
		fd, err := openRoot(dir)
		if err != nil {
			return false, err
		}
		below = append(below, fd)
	}
	if t.opaque {
		changed = true
		if err := hideRoots(top, lower); err != nil {
			return false, fmt.Errorf("hide the layers below: %w", err)
		}
		below = nil // nothing is left to inherit from
	}
	for _, name := range t.implied {
		c, err := inheritFolder(top, name, below)
		if err != nil {
			return false, fmt.Errorf("take over attributes of folder /%s: %w", name, err)
		}
		changed = changed || c
	}
	return changed, nil
}

func openRoot(dir string) (int, error) {
	fd, err := unix.Open(dir, dirOnly|unix.O_NOFOLLOW, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", dir, err)
	}
	return fd, nil
}

// inheritFolder copies what name has in the merged view of below.
func inheritFolder(top int, name string, below []int) (changed bool, err error) {
	from, err := mergedFolder(below, name)
	if err != nil || from < 0 {
		return false, err
	}
	defer unix.Close(from)
	to, err := openBeneath(top, name)
	if err != nil {
		return false, err
	}
	defer unix.Close(to)
	var want, have unix.Stat_t
	if err := errors.Join(unix.Fstat(from, &want), unix.Fstat(to, &have)); err != nil {
		return false, err
	}
	path := fdPath(to)
	if want.Uid != have.Uid || want.Gid != have.Gid {
		changed = true
		if err := unix.Chown(path, int(want.Uid), int(want.Gid)); err != nil {
			return false, err
		}
	}
	if want.Mode&0o7777 != have.Mode&0o7777 {
		changed = true
		if err := unix.Chmod(path, want.Mode&0o7777); err != nil {
			return false, err
		}
	}
	copied, err := copyXattrs(fdPath(from), path)
	if err != nil {
		return false, err
	}
	return changed || copied, unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{want.Atim, want.Mtim}, 0)
}

// openBeneath opens a folder without following any symlink.
func openBeneath(root int, name string) (int, error) {
	if name == "" {
		name = "."
	}
	return openat2(root, name, &unix.OpenHow{Flags: dirOnly | unix.O_NOFOLLOW, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS})
}

// mergedFolder opens the folder that name is in the overlay of the roots, topmost first; -1 where it is none.
func mergedFolder(roots []int, name string) (int, error) {
	for _, root := range roots {
		fd, more, err := folderIn(root, name)
		if err != nil || fd >= 0 || !more {
			return fd, err
		}
	}
	return -1, nil
}

// folderIn looks for name in one layer. more says that the layers below may have it.
func folderIn(root int, name string) (fd int, more bool, err error) {
	more = true
	cur, err := unix.Openat(root, ".", dirOnly, 0)
	if err != nil || name == "" {
		return cur, false, err
	}
	for _, part := range strings.Split(name, "/") {
		more = more && !isOpaque(cur)
		next, err := unix.Openat(cur, part, dirOnly|unix.O_NOFOLLOW, 0)
		if errors.Is(err, unix.ENOENT) {
			_ = unix.Close(cur)
			return -1, more, nil
		}
		_ = unix.Close(cur)
		if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
			return -1, false, nil // a whiteout, or something else in its place
		}
		if err != nil {
			return -1, false, err
		}
		cur = next
	}
	return cur, false, nil
}

func isOpaque(fd int) bool {
	var b [1]byte
	n, err := unix.Getxattr(fdPath(fd), opaqueXattr, b[:])
	return err == nil && n == 1 && b[0] == 'y'
}

// copyXattrs copies those attributes that images may have.
func copyXattrs(from, to string) (changed bool, err error) {
	names := make([]byte, 64<<10) // the kernel's limit (XATTR_LIST_MAX)
	n, err := unix.Listxattr(from, names)
	if errors.Is(err, unix.ENOTSUP) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for _, name := range strings.Split(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00") {
		if name == "" || !allowedXattr(name) {
			continue
		}
		value := make([]byte, 64<<10) // XATTR_SIZE_MAX
		size, err := unix.Getxattr(from, name, value)
		if err != nil {
			return false, err
		}
		if err := unix.Setxattr(to, name, value[:size], 0); err != nil {
			return false, err
		}
		changed = true
	}
	return changed, nil
}

// hideRoots hides everything that the roots of lower have: overlayfs always merges roots.
func hideRoots(top int, lower []string) error {
	var hidden []string
	for _, dir := range lower {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			hidden = append(hidden, e.Name())
		}
	}
	slices.Sort(hidden)
	for _, name := range slices.Compact(hidden) {
		var st unix.Stat_t
		err := unix.Fstatat(top, name, &st, noFollow)
		switch {
		case errors.Is(err, unix.ENOENT):
			err = unix.Mknodat(top, name, unix.S_IFCHR, 0)
		case err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR:
			err = unix.Lsetxattr(fdPath(top)+"/"+name, opaqueXattr, []byte("y"), 0)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}
