package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// beneath keeps every step inside the folder that it begins in, and off symlinks.
const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

// budget is what may still be copied.
type budget struct {
	bytes   int64
	entries int
	// the limits that it began with
	maxBytes   int64
	maxEntries int
}

func newBudget(bytes int64, entries int) *budget { return &budget{bytes, entries, bytes, entries} }

// take notes one more entry of so many bytes.
func (b *budget) take(bytes int64) error {
	b.bytes -= bytes
	b.entries--
	switch {
	case b.bytes < 0:
		return fmt.Errorf("the image's files for new volumes have more than %d bytes in all: raise upgrade.volume_seed_limit in the daemon's configuration: %w", b.maxBytes, errdefs.ErrResourceExhausted)
	case b.entries < 0:
		return fmt.Errorf("the image has more than %d files and folders for new volumes: raise upgrade.volume_seed_entries in the daemon's configuration: %w", b.maxEntries, errdefs.ErrResourceExhausted)
	}
	return nil
}

// inode identifies a file that has several names.
type inode struct{ dev, ino uint64 }

// seeder copies a folder of an image into an empty one that nobody else uses. The image's files are hostile, but nothing
// runs there yet: they do not change.
type seeder struct {
	ctx      context.Context
	src, dst int // the two folders
	left     *budget
	links    map[inode]string // to names in dst
	folders  []folderTimes
	skipped  []string
	copier   copier
}

type folderTimes struct {
	name string
	ts   [2]unix.Timespec
}

// seed copies the folder from into the folder to, which takes its owner, mode, times and attributes too. It gives the
// names of what it leaves out: devices, sockets, and what nobody in the pod's user namespace can read, because that does not
// know its owner.
func seed(ctx context.Context, from *os.File, to string, left *budget) (skipped []string, err error) {
	dst, err := openRoot(to)
	if err != nil {
		return nil, err
	}
	defer unix.Close(dst)
	s := &seeder{ctx: ctx, src: int(from.Fd()), dst: dst, left: left, links: map[inode]string{}}
	var st unix.Stat_t
	if err := unix.Fstat(s.src, &st); err != nil {
		return nil, err
	}
	if err := s.dressFolder(".", &st); err != nil {
		return nil, err
	}
	// Folders wait here rather than on the stack, and no descriptor is kept for them: a tree may be deep.
	for todo := []string{"."}; len(todo) > 0; {
		name := todo[len(todo)-1]
		more, err := s.folder(name)
		if err != nil {
			return nil, err
		}
		todo = append(todo[:len(todo)-1], more...)
	}
	return s.skipped, s.setTimes()
}

func openIn(root int, name string, flags uint64) (int, error) {
	return openat2(root, name, &unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: beneath})
}

// folder copies what is in one folder and gives the folders in it, which it has made.
func (s *seeder) folder(name string) (more []string, err error) {
	from, err := openIn(s.src, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if errors.Is(err, unix.EACCES) {
		s.skipped = append(s.skipped, path.Join("/", name)+"/*")
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open folder %.512q: %w", path.Join("/", name), err)
	}
	dir := os.NewFile(uintptr(from), name)
	defer dir.Close()
	to, err := openIn(s.dst, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return nil, fmt.Errorf("open copy of folder %.512q: %w", path.Join("/", name), err)
	}
	defer unix.Close(to)
	entries, err := dir.Readdirnames(s.left.entries + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read folder %.512q: %w", path.Join("/", name), err)
	}
	for _, e := range entries {
		if err := s.ctx.Err(); err != nil {
			return nil, context.Cause(s.ctx)
		}
		folder, err := s.entry(from, to, name, e)
		if err != nil {
			return nil, fmt.Errorf("copy %.512q: %w", path.Join("/", name, e), err)
		}
		if folder {
			more = append(more, path.Join(name, e))
		}
	}
	return more, nil
}

// entry copies one entry of a folder, open in both trees. Of a folder only itself is made.
func (s *seeder) entry(from, to int, parent, base string) (folder bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstatat(from, base, &st, noFollow); err != nil {
		return false, err
	}
	name := path.Join(parent, base)
	kind := st.Mode & unix.S_IFMT
	id := inode{uint64(st.Dev), st.Ino}
	if first, ok := s.links[id]; ok && kind != unix.S_IFDIR {
		return false, s.link(first, to, base)
	}
	var size int64
	if kind == unix.S_IFREG {
		size = st.Size
	}
	if err := s.left.take(size); err != nil {
		return false, err
	}
	switch kind {
	case unix.S_IFREG:
		err = s.copier.file(s.ctx, from, to, base, &st)
		if errors.Is(err, errUnreadable) {
			s.skipped = append(s.skipped, "/"+name)
			return false, nil
		}
	case unix.S_IFDIR:
		if err := unix.Mkdirat(to, base, 0o700); err != nil {
			return false, err
		}
		return true, s.dressFolder(name, &st)
	case unix.S_IFLNK:
		err = s.symlink(from, to, base, &st)
	case unix.S_IFIFO:
		if err = unix.Mknodat(to, base, unix.S_IFIFO|0o600, 0); err == nil {
			err = s.copier.dress(from, to, base, &st)
		}
	default:
		s.skipped = append(s.skipped, "/"+name)
		return false, nil
	}
	if err == nil && st.Nlink > 1 {
		s.links[id] = name
	}
	return false, err
}

// link gives a file that has been copied another name.
func (s *seeder) link(first string, to int, base string) error {
	if err := s.left.take(0); err != nil {
		return err
	}
	up, last := filepath.Split(first)
	dir, err := openIn(s.dst, path.Clean("./"+up), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	return unix.Linkat(dir, last, to, base, 0)
}

// symlink makes the same symlink, wherever it leads.
func (s *seeder) symlink(from, to int, base string, st *unix.Stat_t) error {
	target := make([]byte, maxPathLength)
	n, err := unix.Readlinkat(from, base, target)
	if err != nil {
		return err
	}
	if err := unix.Symlinkat(string(target[:n]), to, base); err != nil {
		return err
	}
	return s.copier.dress(from, to, base, st)
}

// dressFolder gives a folder what belongs to it but the times, which its content will change.
func (s *seeder) dressFolder(name string, st *unix.Stat_t) error {
	from, err := openIn(s.src, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	defer unix.Close(from)
	to, err := openIn(s.dst, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	defer unix.Close(to)
	s.folders = append(s.folders, folderTimes{name, [2]unix.Timespec{st.Atim, st.Mtim}})
	if err := unix.Chown(fdPath(to), int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Chmod(fdPath(to), st.Mode&0o7777); err != nil {
		return err
	}
	return s.copier.xattrs(fdPath(from), fdPath(to), true)
}

func (s *seeder) setTimes() error {
	for _, f := range s.folders {
		fd, err := openIn(s.dst, f.name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
		if err != nil {
			return fmt.Errorf("set times of %s: %w", f.name, err)
		}
		err = unix.UtimesNanoAt(unix.AT_FDCWD, fdPath(fd), f.ts[:], 0)
		_ = unix.Close(fd)
		if err != nil {
			return fmt.Errorf("set times of %s: %w", f.name, err)
		}
	}
	return nil
}
