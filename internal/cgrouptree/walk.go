package cgrouptree

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	// maxListed bounds the cgroups that a list of processes is made from: a container's init has thousands at most, but on
	// cgroup v1 nothing keeps who manages cgroups inside of a container from making more.
	maxListed = 1 << 14
	// direntsSize is the size of the buffer that a folder is read with.
	direntsSize = 8 << 10
)

// visitor is called for each cgroup of a tree.
type visitor struct {
	enter func(dir *os.File) error                 // before what is below it
	leave func(parent *os.File, name string) error // after that; nil: nothing. Not for the root
	most  int                                      // ResourceExhausted when there are more; 0: any number
}

// level is a folder on the way to the one that is open.
type level struct {
	name  string
	below []string // not visited yet
	next  int64    // where the folder is read on
	end   bool     // below are the last
}

// walk visits root and what is below it until ctx ends. It goes step by step with one open folder and reads that piece by piece:
// who manages cgroups inside of a container can make them deeper than any path is long (PATH_MAX), more of them than there are
// descriptors, and new ones faster than they are visited. What goes away meanwhile is passed over.
func walk(ctx context.Context, root string, v visitor) error {
	w := walker{ctx: ctx, visitor: v, root: root}
	var err error
	if w.dir, err = openFolder(unix.AT_FDCWD, root); err != nil {
		return err
	}
	defer func() { _ = w.dir.Close() }()
	if err := w.push(""); err != nil {
		return err
	}
	for len(w.path) > 0 {
		if err := w.advance(); err != nil {
			return err
		}
	}
	return nil
}

type walker struct {
	visitor
	ctx     context.Context
	root    string
	dir     *os.File
	path    []level // to dir
	visited int
	buffer  [direntsSize]byte
}

// advance visits the next cgroup below the open one, or leaves that.
func (w *walker) advance() error {
	top := &w.path[len(w.path)-1]
	if len(top.below) == 0 && !top.end {
		if err := w.read(top); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	if n := len(top.below); n > 0 {
		name := top.below[n-1]
		top.below = top.below[:n-1]
		err := w.step(name)
		if err == nil {
			err = w.push(name)
		}
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
		return nil
	}
	if !top.end {
		return nil
	}
	name := top.name
	if w.path = w.path[:len(w.path)-1]; len(w.path) == 0 {
		return nil
	}
	if err := w.step(".."); err != nil {
		return err
	}
	if w.leave != nil {
		return w.leave(w.dir, name)
	}
	return nil
}

func (w *walker) push(name string) error {
	w.path = append(w.path, level{name: name})
	if err := w.ctx.Err(); err != nil {
		return fmt.Errorf("look through cgroup %s, of which %d folders were visited: %w", w.root, w.visited, err)
	}
	if w.visited++; w.most > 0 && w.visited > w.most {
		return fmt.Errorf("it has more than %d folders: %w", w.most, errdefs.ErrResourceExhausted)
	}
	return w.enter(w.dir)
}

func (w *walker) step(name string) error {
	next, err := openFolder(int(w.dir.Fd()), name)
	if err != nil {
		return err
	}
	_ = w.dir.Close()
	w.dir = next
	return nil
}

// read reads on in the open folder. A position in a folder of the kernel's stays good when it is opened anew, whatever was made
// or removed in it meanwhile.
func (w *walker) read(l *level) error {
	fd := int(w.dir.Fd())
	if _, err := unix.Seek(fd, l.next, io.SeekStart); err != nil {
		return fmt.Errorf("list cgroup: %w", err)
	}
	n, err := unix.Getdents(fd, w.buffer[:])
	if err != nil || n <= 0 {
		l.end = true
		if err != nil {
			err = fmt.Errorf("list cgroup: %w", err)
		}
		return err
	}
	l.below = folders(w.buffer[:n])
	if l.next, err = unix.Seek(fd, 0, io.SeekCurrent); err != nil {
		return fmt.Errorf("list cgroup: %w", err)
	}
	return nil
}

// folders gives the names of the folders among linux_dirent64 records (getdents(2)).
func folders(records []byte) (names []string) {
	const lengthAt, typeAt, nameAt = 16, 18, 19
	for len(records) > nameAt {
		length := int(binary.NativeEndian.Uint16(records[lengthAt:]))
		if length <= nameAt || length > len(records) {
			break
		}
		name, _, _ := bytes.Cut(records[nameAt:length], []byte{0})
		if records[typeAt] == unix.DT_DIR && string(name) != "." && string(name) != ".." {
			names = append(names, string(name))
		}
		records = records[length:]
	}
	return names
}

func openFolder(at int, name string) (*os.File, error) {
	fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open cgroup %.200s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// readIn reads a file of a cgroup.
func readIn(dir *os.File, name string) ([]byte, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	return io.ReadAll(f)
}
