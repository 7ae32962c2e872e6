package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	xattrListMax = 64 << 10 // XATTR_LIST_MAX
	xattrSizeMax = 64 << 10 // XATTR_SIZE_MAX
)

// errUnreadable says that not even root may read a file: its owner is not in the user namespace of the mount.
var errUnreadable = errors.New("its owner is not known in the user namespace")

// copier copies single files; it keeps its buffers. The zero value is ready.
type copier struct {
	buf          []byte
	names, value []byte
	noKernelCopy bool // the kernel does not copy between these filesystems by itself
}

// file copies a regular file with all that belongs to it.
func (c *copier) file(ctx context.Context, from, to int, base string, st *unix.Stat_t) (err error) {
	in, err := unix.Openat(from, base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EACCES) {
		return errUnreadable
	}
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	defer unix.Close(in)
	out, err := unix.Openat(to, base, newFile, 0o600)
	if err != nil {
		return fmt.Errorf("make: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Close(out)) }()
	if err := c.bytes(ctx, in, out, st.Size); err != nil {
		return err
	}
	// The order matters: a change of owner clears set-id bits and file capabilities.
	if err := unix.Fchown(out, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Fchmod(out, st.Mode&0o7777); err != nil {
		return err
	}
	if err := c.xattrs(fdPath(in), fdPath(out), true); err != nil {
		return err
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, fdPath(out), []unix.Timespec{st.Atim, st.Mtim}, 0)
}

// bytes copies so many bytes: inside the kernel, which shares the blocks where the filesystem can, or through a buffer.
func (c *copier) bytes(ctx context.Context, in, out int, size int64) error {
	for left := size; left > 0; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := c.chunk(in, out, int(min(left, 64<<20)))
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("it ends %d bytes too early: %w", left, io.ErrUnexpectedEOF)
		}
		left -= int64(n)
	}
	return nil
}

func (c *copier) chunk(in, out, limit int) (int, error) {
	if !c.noKernelCopy {
		n, err := unix.CopyFileRange(in, nil, out, nil, limit, 0)
		switch {
		case err == nil && n > 0:
			return n, nil
		case err == nil, errors.Is(err, unix.EXDEV), errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM):
			c.noKernelCopy = true
		case errors.Is(err, unix.EINTR):
			return c.chunk(in, out, limit)
		default:
			return 0, fmt.Errorf("copy: %w", err)
		}
	}
	if c.buf == nil {
		c.buf = make([]byte, copyBuffer)
	}
	n, err := ignoringEINTR(func() (int, error) { return unix.Read(in, c.buf[:min(limit, len(c.buf))]) })
	if err != nil {
		return 0, fmt.Errorf("read: %w", err)
	}
	for done := 0; done < n; {
		w, err := ignoringEINTR(func() (int, error) { return unix.Write(out, c.buf[done:n]) })
		if err != nil {
			return 0, fmt.Errorf("write: %w", err)
		}
		done += w
	}
	return n, nil
}

func ignoringEINTR(fn func() (int, error)) (int, error) {
	for {
		n, err := fn()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// dress gives a symlink or a fifo its owner, mode, attributes and times.
func (c *copier) dress(from, to int, base string, st *unix.Stat_t) error {
	if err := unix.Fchownat(to, base, int(st.Uid), int(st.Gid), noFollow); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK { // its own mode means nothing
		if err := unix.Fchmodat(to, base, st.Mode&0o7777, 0); err != nil {
			return err
		}
	}
	if err := c.xattrs(fdPath(from)+"/"+base, fdPath(to)+"/"+base, false); err != nil {
		return err
	}
	return unix.UtimesNanoAt(to, base, []unix.Timespec{st.Atim, st.Mtim}, noFollow)
}

// xattrs copies the extended attributes that images may have, ACLs and file capabilities among them. follow is for links
// of /proc to what is open.
func (c *copier) xattrs(from, to string, follow bool) error {
	list, get, set := unix.Llistxattr, unix.Lgetxattr, unix.Lsetxattr
	if follow {
		list, get, set = unix.Listxattr, unix.Getxattr, unix.Setxattr
	}
	if c.names == nil {
		c.names, c.value = make([]byte, xattrListMax), make([]byte, xattrSizeMax)
	}
	n, err := list(from, c.names)
	if errors.Is(err, unix.ENOTSUP) || err == nil && n == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list extended attributes: %w", err)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(c.names[:n]), "\x00"), "\x00") {
		if !allowedXattr(name) {
			continue
		}
		size, err := get(from, name, c.value)
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read extended attribute %q: %w", name, err)
		}
		if err := set(to, name, c.value[:size], 0); err != nil {
			return fmt.Errorf("set extended attribute %q: %w", name, err)
		}
	}
	return nil
}
