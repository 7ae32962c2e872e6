package richcontainer

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// image is a container's root filesystem. Everything in it is the image author's: the kernel resolves its symlinks as if it
// were "/" (openat2(2)), only plain files are read, and never more of them than a bound.
type image struct {
	dir    *os.File
	mounts []string // where the specification mounts something: the image's files are not seen there
}

func openImage(rootfs string, mounts []specs.Mount) (*image, error) {
	dir, err := os.OpenFile(rootfs, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("open root filesystem: %w", err)
	}
	i := &image{dir: dir}
	for _, m := range mounts {
		i.mounts = append(i.mounts, path.Clean(m.Destination))
	}
	return i, nil
}

func (i *image) close() { _ = i.dir.Close() }

// found is a thing in an image.
type found struct {
	path string // where it is, without symlinks
	mode fs.FileMode
	size int64
}

// program says whether the user can execute it.
func (f found) program(uid uint32) bool {
	need := fs.FileMode(0o005) // an interpreter of a script reads it
	if uid == 0 {
		need = 0o100
	}
	return f.mode.IsRegular() && f.mode.Perm()&need == need && f.size > 0
}

// look finds what is at p in the image; false: nothing, or nothing that the container would see there.
func (i *image) look(p string) (found, bool, error) {
	f, err := i.open(p)
	if absent(err) {
		return found{}, false, nil
	}
	if err != nil {
		return found{}, false, err
	}
	defer f.Close()
	out, err := i.describe(f)
	if err != nil || i.hidden(out.path) || i.hidden(p) {
		return found{}, false, err
	}
	return out, true, nil
}

// read reads a plain file of at most limit bytes; nil without an error: there is none. Another kind of file, or a larger
// one, is InvalidArgument.
func (i *image) read(p string, limit int64) ([]byte, error) {
	f, err := i.open(p)
	if absent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readPlain(f, p+" of the image", limit)
}

// readPlain reads what an O_PATH descriptor stands for. It is opened again only once it is known to be a plain file: to open
// a FIFO or a device would be more than to look at it.
func readPlain(f *os.File, name string, limit int64) ([]byte, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", name, err)
	}
	if !st.Mode().IsRegular() {
		return nil, noPlainFile(name, st.Mode())
	}
	// Without waiting: who owns a file may hold a lease on it (fcntl(2)), which keeps others waiting for 45 s each.
	plain, err := os.OpenFile(fdPath(f), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("%s is held by a lease of somebody who has it open: %w", name, errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	defer plain.Close()
	b, err := io.ReadAll(io.LimitReader(plain, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s has more than %d bytes: put a shorter file there: %w", name, limit, errdefs.ErrInvalidArgument)
	}
	return b, nil
}

func noPlainFile(name string, m fs.FileMode) error {
	return fmt.Errorf("%s is no plain file but %s: put a plain file there: %w", name, kindOf(m), errdefs.ErrInvalidArgument)
}

func kindOf(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "a folder"
	case m&fs.ModeNamedPipe != 0:
		return "a FIFO"
	case m&fs.ModeSocket != 0:
		return "a socket"
	case m&fs.ModeDevice != 0:
		return "a device"
	case m.IsRegular():
		return "a file"
	}
	return "something else"
}

// open gives an O_PATH descriptor of p with all symlinks followed inside the image.
func (i *image) open(p string) (*os.File, error) { return openIn(i.dir, p) }

func openIn(dir *os.File, p string) (*os.File, error) {
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(int(dir.Fd()), p, how)
	for range 128 { // a rename elsewhere makes the kernel ask for another try
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			break
		}
		fd, err = unix.Openat2(int(dir.Fd()), p, how)
	}
	if errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("the symlinks at %s lead in a circle: let them lead to a file or folder: %w", p, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s in the image: %w", p, err)
	}
	return os.NewFile(uintptr(fd), p), nil
}

func absent(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) }

func (i *image) describe(f *os.File) (found, error) {
	st, err := f.Stat()
	if err != nil {
		return found{}, fmt.Errorf("look at %s in the image: %w", f.Name(), err)
	}
	base, err := os.Readlink(fdPath(i.dir))
	if err != nil {
		return found{}, err
	}
	real, err := os.Readlink(fdPath(f))
	if err != nil {
		return found{}, err
	}
	rel, err := filepath.Rel(base, real)
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return found{}, fmt.Errorf("%s is outside of the root filesystem %s: %w", real, base, errdefs.ErrInternal)
	}
	return found{path: path.Join("/", rel), mode: st.Mode(), size: st.Size()}, nil
}

func fdPath(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// hidden says whether a mount covers p.
func (i *image) hidden(p string) bool {
	for _, m := range i.mounts {
		if m == p || m == "/" || strings.HasPrefix(p, m+"/") {
			return true
		}
	}
	return false
}

// folder insists that p is a folder, or nothing; where it leads to another one is inside of the image.
func (i *image) folder(p string) (found, error) {
	f, there, err := i.look(p)
	if err == nil && there && !f.mode.IsDir() {
		err = fmt.Errorf("%s of the image is no folder but %s: build the image with a folder there: %w", p, kindOf(f.mode), errdefs.ErrInvalidArgument)
	}
	return f, err
}

// link gives what the link at p says; empty: there is none.
func (i *image) link(p string) string {
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC | unix.O_NOFOLLOW, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(int(i.dir.Fd()), p, how)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", b)
	if err != nil {
		return ""
	}
	return string(b[:n])
}

// end gives the path that the links at p lead to, which need not be there.
func (i *image) end(p string) string {
	for range maxLinksOfAPath {
		to := i.link(p)
		if to == "" {
			break
		}
		if !path.IsAbs(to) {
			to = path.Join(path.Dir(p), to)
		}
		p = path.Clean(to)
	}
	return p
}

// maxLinksOfAPath is as the kernel has it (path_resolution(7)).
const maxLinksOfAPath = 40
