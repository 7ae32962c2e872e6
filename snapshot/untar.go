package snapshot

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	block      = 4096 // what a folder, and the last part of a file, take on disk
	maxDirs    = 256  // open folders that are kept
	maxLinks   = 40   // symlinks that are followed for one name, as the kernel does
	copyBuffer = 1 << 20

	opaqueXattr   = "trusted.overlay.opaque"
	whiteout      = ".wh."
	opaqueMarker  = ".wh..wh..opq"
	whiteoutMeta  = ".wh..wh." // aufs' own files
	xattrPAX      = "SCHILY.xattr."
	pathOnly      = unix.O_PATH | unix.O_CLOEXEC
	dirOnly       = pathOnly | unix.O_DIRECTORY
	insideOnly    = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS
	noFollow      = unix.AT_SYMLINK_NOFOLLOW
	newFile       = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
	maxPathLength = 4096
)

// tree is what the unpacking of a tar learnt.
type tree struct {
	usage   snapshots.Usage
	implied []string // folders, parents first, that the tar has no entry for; "" is the root
	opaque  bool     // the layer hides everything below it
}

// extractor writes a tar into a folder that nobody else uses. Each entry is hostile: names are resolved by the kernel
// within the folder (openat2(2), RESOLVE_IN_ROOT), and the last component is never followed.
type extractor struct {
	root     int
	rootPath string
	upper    bool // there are layers below
	dirs     map[string]int
	implied  map[string]bool
	order    []string // of implied
	tree     tree
	times    []dirTime
	buf      []byte
}

type dirTime struct {
	name string
	ts   [2]unix.Timespec
}

// untar unpacks r into root. With upper, whiteouts become those of overlayfs; without, they have nothing to hide.
func untar(r io.Reader, root string, upper bool) (_ tree, err error) {
	fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return tree{}, fmt.Errorf("open %s: %w", root, err)
	}
	x := &extractor{root: fd, upper: upper, dirs: map[string]int{}, implied: map[string]bool{"": true}, order: []string{""}, buf: make([]byte, copyBuffer)}
	defer func() {
		x.flush()
		_ = unix.Close(fd)
	}()
	if x.rootPath, err = os.Readlink(fdPath(fd)); err != nil {
		return tree{}, err
	}
	x.tree.usage = snapshots.Usage{Inodes: 1, Size: block}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return tree{}, streamError(err)
		}
		if err := x.entry(h, tr); err != nil {
			return tree{}, entryError(h.Name, err)
		}
	}
	if err := x.setTimes(); err != nil {
		return tree{}, err
	}
	for _, name := range x.order {
		if x.implied[name] {
			x.tree.implied = append(x.tree.implied, name)
		}
	}
	return x.tree, nil
}

// entryError says which entry could not be unpacked, and whether the image is to blame.
func entryError(name string, err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) && slices.Contains(contradictions, errno) {
		return imageError(errdefs.ErrInvalidArgument, "entry %.256q of the layer does not fit the others or is malformed (%w)", name, err)
	}
	return fmt.Errorf("entry %.256q: %w", name, err)
}

// contradictions are the system's answers to entries that cannot be.
var contradictions = []unix.Errno{unix.ENOTDIR, unix.EISDIR, unix.EEXIST, unix.ENOENT, unix.ELOOP, unix.ENAMETOOLONG, unix.EINVAL, unix.EXDEV, unix.ENOTEMPTY, unix.EMLINK, unix.E2BIG}

// streamError gives damage of the stream its class; errors of the system pass.
func streamError(err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return err
	}
	return imageError(errdefs.ErrDataLoss, "the layer is damaged (%w)", err)
}

func fdPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// flush closes the folders that are kept open.
func (x *extractor) flush() {
	for k, fd := range x.dirs {
		_ = unix.Close(fd)
		delete(x.dirs, k)
	}
}

// clean gives the name of an entry relative to the root, without dots; "" is the root itself.
func clean(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

// split gives parent and last component of a cleaned name.
func split(name string) (dir, base string) {
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		return name[:i], name[i+1:]
	}
	return "", name
}

// dir opens the folder of that cleaned name, and makes it (and its parents) where the tar only implies it. The
// descriptor is the extractor's, good until the next flush.
func (x *extractor) dir(name string, links int) (int, error) {
	if name == "" {
		return x.root, nil
	}
	if fd, ok := x.dirs[name]; ok {
		return fd, nil
	}
	if len(name) > maxPathLength {
		return -1, unix.ENAMETOOLONG
	}
	fd, err := x.openDir(name)
	switch {
	case err == nil:
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		if fd, err = x.makeDir(name, links); err != nil {
			return -1, err
		}
	default:
		return -1, fmt.Errorf("open folder %s: %w", name, err)
	}
	if old, ok := x.dirs[name]; ok { // made on the way, through a symlink
		_ = unix.Close(fd)
		return old, nil
	}
	x.dirs[name] = fd
	return fd, nil
}

func (x *extractor) openDir(name string) (int, error) {
	return openat2(x.root, name, &unix.OpenHow{Flags: dirOnly, Resolve: insideOnly})
}

// makeDir makes a folder that the tar implies, and opens it.
func (x *extractor) makeDir(name string, links int) (int, error) {
	parent, base := split(name)
	up, err := x.dir(parent, links)
	if err != nil {
		return -1, err
	}
	err = unix.Mkdirat(up, base, 0o755)
	if errors.Is(err, unix.EEXIST) {
		return x.passThrough(up, name, base, links)
	}
	if err != nil {
		return -1, fmt.Errorf("make folder %s: %w", name, err)
	}
	if err := unix.Fchmodat(up, base, 0o755, 0); err != nil { // whatever the umask
		return -1, err
	}
	if err := x.imply(up, base); err != nil {
		return -1, err
	}
	x.count(block)
	return x.openDir(name)
}

// imply notes that the folder base in up has no entry (yet).
func (x *extractor) imply(up int, base string) error {
	real, err := x.realName(up, base)
	if err != nil {
		return err
	}
	if !x.implied[real] {
		x.implied[real] = true
		x.order = append(x.order, real)
	}
	return nil
}

// realName gives the name of base in the open folder up, without symlinks.
func (x *extractor) realName(up int, base string) (string, error) {
	if up == x.root {
		return base, nil
	}
	p, err := os.Readlink(fdPath(up))
	if err != nil {
		return "", err
	}
	rel, ok := strings.CutPrefix(p, x.rootPath)
	if !ok {
		return "", fmt.Errorf("folder %s is outside of the layer", p)
	}
	return clean(rel + "/" + base), nil
}

// passThrough opens what stands in the way of an implied folder: a symlink to a folder that only a layer below has, or a
// whiteout that the folder replaces.
func (x *extractor) passThrough(up int, name, base string, links int) (int, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(up, base, &st, noFollow); err != nil {
		return -1, err
	}
	switch {
	case isWhiteout(&st):
		if err := x.overWhiteout(up, base, 0o755); err != nil {
			return -1, err
		}
		if err := x.imply(up, base); err != nil {
			return -1, err
		}
		x.count(block)
		return x.openDir(name)
	case st.Mode&unix.S_IFMT == unix.S_IFLNK && links < maxLinks:
		target, err := os.Readlink(fdPath(up) + "/" + base)
		if err != nil {
			return -1, err
		}
		if !path.IsAbs(target) {
			dir, err := x.realName(up, ".")
			if err != nil {
				return -1, err
			}
			target = dir + "/" + target
		}
		fd, err := x.dir(clean(target), links+1)
		if err != nil {
			return -1, err
		}
		return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	}
	return -1, fmt.Errorf("%s is no folder: %w", name, unix.ENOTDIR)
}

func isWhiteout(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

// overWhiteout puts a folder in the place of a whiteout: it must go on hiding what lies below.
func (x *extractor) overWhiteout(up int, base string, mode uint32) error {
	if err := unix.Unlinkat(up, base, 0); err != nil {
		return err
	}
	if err := unix.Mkdirat(up, base, mode); err != nil {
		return err
	}
	return unix.Lsetxattr(fdPath(up)+"/"+base, opaqueXattr, []byte("y"), 0)
}

// count notes one more inode of that many bytes.
func (x *extractor) count(size int64) {
	x.tree.usage.Inodes++
	x.tree.usage.Size += size
}

// setTimes sets the folders' times, which the writing of their content has changed.
func (x *extractor) setTimes() error {
	for i := len(x.times) - 1; i >= 0; i-- {
		t := x.times[i]
		fd, err := x.openDir(t.name)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			continue // replaced by a later entry
		}
		if err != nil {
			return fmt.Errorf("set times of %s: %w", t.name, err)
		}
		err = unix.UtimesNanoAt(unix.AT_FDCWD, fdPath(fd), t.ts[:], 0)
		_ = unix.Close(fd)
		if err != nil {
			return fmt.Errorf("set times of %s: %w", t.name, err)
		}
	}
	return nil
}
