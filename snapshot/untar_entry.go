package snapshot

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// entry unpacks one entry.
func (x *extractor) entry(h *tar.Header, r io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	if len(x.dirs) > maxDirs {
		x.flush()
	}
	name := clean(h.Name)
	if name == "" {
		return x.rootEntry(h)
	}
	parent, base := split(name)
	up, err := x.dir(parent, 0)
	if err != nil {
		return err
	}
	if strings.HasPrefix(base, whiteout) {
		return x.whiteout(up, base, parent == "")
	}
	switch h.Typeflag {
	case tar.TypeReg:
		return x.file(up, base, parent, h, r)
	case tar.TypeDir:
		return x.folder(up, base, name, h)
	case tar.TypeSymlink:
		if err := x.place(up, base, parent, func(up int) error { return unix.Symlinkat(h.Linkname, up, base) }); err != nil {
			return err
		}
		x.count(0)
	case tar.TypeLink:
		return x.hardlink(up, base, parent, h)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		if err := x.place(up, base, parent, func(up int) error { return unix.Mknodat(up, base, nodeMode(h), nodeDevice(h)) }); err != nil {
			return err
		}
		x.count(0)
	default:
		return imageError(errdefs.ErrInvalidArgument, "it is of the unknown type %q", h.Typeflag)
	}
	if up, err = x.dir(parent, 0); err != nil { // place may have closed it
		return err
	}
	return x.dress(up, base, h)
}

func nodeMode(h *tar.Header) uint32 {
	mode := permissions(h)
	switch h.Typeflag {
	case tar.TypeChar:
		return mode | unix.S_IFCHR
	case tar.TypeBlock:
		return mode | unix.S_IFBLK
	}
	return mode | unix.S_IFIFO
}

func nodeDevice(h *tar.Header) int {
	if h.Typeflag == tar.TypeFifo {
		return 0
	}
	return int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor)))
}

func permissions(h *tar.Header) uint32 { return uint32(h.Mode & 0o7777) }

// place makes a new object by fn; what an earlier entry put there makes way.
func (x *extractor) place(up int, base, parent string, fn func(up int) error) error {
	err := fn(up)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	x.flush() // a folder that is removed may be among them
	if up, err = x.dir(parent, 0); err != nil {
		return err
	}
	// os.RemoveAll goes down by descriptors and follows no link (the magic one to our own descriptor is the parent's).
	if err := os.RemoveAll(fdPath(up) + "/" + base); err != nil {
		return fmt.Errorf("replace: %w", err)
	}
	return fn(up)
}

// rootEntry takes owner, mode and attributes of the layer's root.
func (x *extractor) rootEntry(h *tar.Header) error {
	if h.Typeflag != tar.TypeDir {
		return nil
	}
	delete(x.implied, "")
	x.times = append(x.times, dirTime{".", times(h)})
	if err := unix.Fchown(x.root, h.Uid, h.Gid); err != nil {
		return err
	}
	if err := unix.Fchmod(x.root, permissions(h)); err != nil {
		return err
	}
	return setXattrs(x.rootPath, h)
}

// whiteout hides what layers below have.
func (x *extractor) whiteout(up int, base string, inRoot bool) error {
	if !x.upper || (base != opaqueMarker && strings.HasPrefix(base, whiteoutMeta)) {
		return nil
	}
	if base == opaqueMarker {
		if inRoot { // overlayfs merges roots whatever they are marked as
			x.tree.opaque = true
			return nil
		}
		return unix.Setxattr(fdPath(up), opaqueXattr, []byte("y"), 0)
	}
	hidden := strings.TrimPrefix(base, whiteout)
	if hidden == "" || hidden == "." || hidden == ".." {
		return imageError(errdefs.ErrInvalidArgument, "it is a whiteout of nothing")
	}
	err := unix.Mknodat(up, hidden, unix.S_IFCHR, 0)
	if !errors.Is(err, unix.EEXIST) {
		if err == nil {
			x.count(0)
		}
		return err
	}
	// The layer itself has something there; a whiteout is about the layers below only.
	var st unix.Stat_t
	if err := unix.Fstatat(up, hidden, &st, noFollow); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return unix.Lsetxattr(fdPath(up)+"/"+hidden, opaqueXattr, []byte("y"), 0)
	}
	return nil
}

// file writes a regular file.
func (x *extractor) file(up int, base, parent string, h *tar.Header, r io.Reader) (err error) {
	fd := -1
	if err := x.place(up, base, parent, func(up int) (err error) {
		fd, err = unix.Openat(up, base, newFile, 0o600)
		return err
	}); err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), base)
	defer func() { err = errors.Join(err, f.Close()) }()
	// Wrapped: os.File would take the generic path with a small buffer of its own.
	if _, err := io.CopyBuffer(struct{ io.Writer }{f}, struct{ io.Reader }{r}, x.buf); err != nil {
		return streamOrDisk(err)
	}
	// The order matters: a change of owner clears set-id bits and file capabilities.
	if err := unix.Fchown(fd, h.Uid, h.Gid); err != nil {
		return err
	}
	if err := unix.Fchmod(fd, permissions(h)); err != nil {
		return err
	}
	if err := setXattrs(fdPath(fd), h); err != nil {
		return err
	}
	ts := times(h)
	x.count((h.Size + block - 1) &^ (block - 1))
	return unix.UtimesNanoAt(unix.AT_FDCWD, fdPath(fd), ts[:], 0)
}

// streamOrDisk tells a damaged stream from a disk that does not take it.
func streamOrDisk(err error) error {
	var pe *os.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return streamError(err)
}

// folder makes a folder, or takes one that is there.
func (x *extractor) folder(up int, base, name string, h *tar.Header) error {
	err := unix.Mkdirat(up, base, 0o700)
	if errors.Is(err, unix.EEXIST) {
		err = x.overExisting(up, base, name)
		if up2, e := x.parentOf(name); e == nil {
			up = up2
		} else {
			err = errors.Join(err, e)
		}
	} else if err == nil {
		x.count(block)
	}
	if err != nil {
		return err
	}
	real, err := x.realName(up, base)
	if err != nil {
		return err
	}
	delete(x.implied, real)
	x.times = append(x.times, dirTime{real, times(h)})
	return x.dress(up, base, h)
}

func (x *extractor) parentOf(name string) (int, error) {
	parent, _ := split(name)
	return x.dir(parent, 0)
}

// overExisting makes place for a folder, unless there is one.
func (x *extractor) overExisting(up int, base, name string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(up, base, &st, noFollow); err != nil {
		return err
	}
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return nil
	case isWhiteout(&st):
		x.count(block)
		return x.overWhiteout(up, base, 0o700)
	}
	x.count(block)
	parent, _ := split(name)
	return x.place(up, base, parent, func(up int) error { return unix.Mkdirat(up, base, 0o700) })
}

// hardlink links to what an earlier entry of the same layer made.
func (x *extractor) hardlink(up int, base, parent string, h *tar.Header) error {
	target := clean(h.Linkname)
	if target == "" {
		return imageError(errdefs.ErrInvalidArgument, "it is a hard link to the root")
	}
	dir, last := split(target)
	from := x.root
	if dir != "" {
		var err error
		if from, err = x.openDir(dir); err != nil {
			return fmt.Errorf("hard link to %.256q: %w", h.Linkname, err)
		}
		defer unix.Close(from)
	}
	var a, b unix.Stat_t
	if unix.Fstatat(from, last, &a, noFollow) == nil && unix.Fstatat(up, base, &b, noFollow) == nil && a.Dev == b.Dev && a.Ino == b.Ino {
		return nil // to itself, or the same again: it must not be removed to be linked
	}
	if err := x.place(up, base, parent, func(up int) error { return unix.Linkat(from, last, up, base, 0) }); err != nil {
		return fmt.Errorf("hard link to %.256q: %w", h.Linkname, err)
	}
	return nil
}

// dress gives an object that is no regular file its owner, mode, attributes and times.
func (x *extractor) dress(up int, base string, h *tar.Header) error {
	if err := unix.Fchownat(up, base, h.Uid, h.Gid, noFollow); err != nil {
		return err
	}
	if h.Typeflag != tar.TypeSymlink { // its own mode means nothing
		if err := unix.Fchmodat(up, base, permissions(h), 0); err != nil {
			return err
		}
	}
	if err := setXattrs(fdPath(up)+"/"+base, h); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeDir {
		return nil
	}
	ts := times(h)
	return unix.UtimesNanoAt(up, base, ts[:], noFollow)
}

// setXattrs sets those extended attributes that an image may decide on.
func setXattrs(p string, h *tar.Header) error {
	for k, v := range h.PAXRecords {
		name, ok := strings.CutPrefix(k, xattrPAX)
		if !ok || !allowedXattr(name) {
			continue
		}
		set := unix.Lsetxattr
		if h.Typeflag == tar.TypeReg || h.Typeflag == tar.TypeDir { // p may be the link to an open descriptor
			set = unix.Setxattr
		}
		err := set(p, name, []byte(v), 0)
		// A filesystem that has no such attributes is no reason to refuse the image; user.* is for files and folders only.
		if errors.Is(err, unix.ENOTSUP) || (errors.Is(err, unix.EPERM) && h.Typeflag != tar.TypeReg && h.Typeflag != tar.TypeDir) {
			continue
		}
		if err != nil {
			return fmt.Errorf("set extended attribute %q: %w", name, err)
		}
	}
	return nil
}

// allowedXattr keeps images from speaking to overlayfs (redirects and opaque folders beyond what whiteouts say) and to
// the host's security modules. File capabilities are the image's business.
func allowedXattr(name string) bool {
	switch {
	case strings.HasPrefix(name, "trusted.overlay."), strings.HasPrefix(name, "user.overlay."):
		return false
	case strings.HasPrefix(name, "security."):
		return name == "security.capability"
	}
	return true
}

// times gives access and modification time of an entry. Times before 1970 become that.
func times(h *tar.Header) [2]unix.Timespec {
	m := h.ModTime
	if m.Unix() < 0 {
		m = time.Unix(0, 0)
	}
	a := h.AccessTime
	if a.Before(m) {
		a = m
	}
	return [2]unix.Timespec{timespec(a), timespec(m)}
}

func timespec(t time.Time) unix.Timespec {
	return unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
}
