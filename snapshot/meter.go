package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

const (
	// measureDepth is how many folders are kept open on the way down. What lies deeper is visited later, by its handle: a
	// container can nest folders deeper than a process may have descriptors, and must not hide what it stores there.
	measureDepth = 128
	maxHandles   = 100_000 // of folders that are visited later
)

// meter adds up what files take that containers may be changing; what changes is counted or not.
type meter struct {
	ctx           context.Context
	seen          map[inode]struct{} // files with several names
	deep          []unix.FileHandle
	bytes, inodes uint64
}

func newMeter(ctx context.Context) *meter { return &meter{ctx: ctx, seen: map[inode]struct{}{}} }

// tree counts a folder and all below it; an absent one is nothing.
func (m *meter) tree(dir string) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	mounted, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		_ = unix.Close(fd)
		return err
	}
	defer unix.Close(mounted)
	if err := m.folder(fd, 0); err != nil {
		return err
	}
	for len(m.deep) > 0 {
		h := m.deep[len(m.deep)-1]
		m.deep = m.deep[:len(m.deep)-1]
		fd, err := unix.OpenByHandleAt(mounted, h, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC)
		if err != nil {
			continue // removed meanwhile, or this process may not use handles
		}
		if err := m.folder(fd, 0); err != nil {
			return err
		}
	}
	return nil
}

// folder counts an open folder, which it closes, and all below it.
func (m *meter) folder(fd, depth int) error {
	dir := os.NewFile(uintptr(fd), "folder")
	defer dir.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	m.count(&st)
	for {
		if m.ctx.Err() != nil {
			return context.Cause(m.ctx)
		}
		names, err := dir.Readdirnames(256)
		for _, name := range names {
			if err := m.entry(fd, name, depth); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, fs.ErrNotExist) { // a removed folder reads as absent
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (m *meter) entry(dir int, name string, depth int) error {
	var st unix.Stat_t
	err := unix.Fstatat(dir, name, &st, noFollow)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		m.count(&st)
		return nil
	}
	if depth == measureDepth {
		return m.later(dir, name, &st)
	}
	sub, err := openIn(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return nil // replaced in this moment
	case err != nil:
		return err
	}
	return m.folder(sub, depth+1)
}

// later puts a folder off; it is counted when it is visited.
func (m *meter) later(dir int, name string, st *unix.Stat_t) error {
	h, _, err := unix.NameToHandleAt(dir, name, 0)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.EOPNOTSUPP), err == nil && len(m.deep) == maxHandles:
		m.count(st)
		return nil
	case err != nil:
		return fmt.Errorf("get a handle of a folder: %w", err)
	}
	m.deep = append(m.deep, h)
	return nil
}

func (m *meter) count(st *unix.Stat_t) {
	if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		id := inode{uint64(st.Dev), st.Ino}
		if _, ok := m.seen[id]; ok {
			return
		}
		m.seen[id] = struct{}{}
	}
	m.inodes++
	m.bytes += uint64(st.Blocks) * 512
}
