package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// measureDepth is how many folders are kept open on the way down. What lies deeper is visited later, by its handle: a
	// container can nest folders deeper than a process may have descriptors, and must not hide what it stores there.
	measureDepth = 128
	maxHandles   = 100_000 // of folders that are visited later
	// measureShare is how many times longer a measurement is good than it took: a huge volume is not walked all the time.
	measureShare = 20
)

// volumeUsage keeps what volumes were measured to use, by pod and container.
type volumeUsage struct {
	mu   sync.Mutex
	m    map[[2]string]measured
	turn *locker // one measurement of the same volumes at a time
}

type measured struct {
	use  FSUsage
	good time.Duration
}

func newVolumeUsage() *volumeUsage {
	return &volumeUsage{m: map[[2]string]measured{}, turn: newLocker()}
}

func (u *volumeUsage) drop(pod, container string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.m, [2]string{pod, container})
}

func (u *volumeUsage) forget(pod string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for k := range u.m {
		if k[0] == pod {
			delete(u.m, k)
		}
	}
}

func (u *volumeUsage) get(key [2]string) (FSUsage, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	m, ok := u.m[key]
	return m.use, ok && time.Since(m.use.Time) < m.good
}

// Usage is what the volumes of containers of this name in the pod take on disk, all together. It is at most 10 seconds old,
// or 20 times as old as it takes to measure. None: zero.
func (v *Volumes) Usage(ctx context.Context, pod, container string) (FSUsage, error) {
	dir, err := v.folder(pod, container)
	if err != nil {
		return FSUsage{}, err
	}
	key := [2]string{pod, container}
	if use, ok := v.usage.get(key); ok {
		return use, nil
	}
	root, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return FSUsage{Mountpoint: v.dir, Time: time.Now()}, nil
	}
	if err != nil {
		return FSUsage{}, fmt.Errorf("measure volumes of container %s in pod %s: %w", container, pod, err)
	}
	_ = unix.Close(root)
	free, err := v.usage.turn.lock(ctx, pod+"/"+container)
	if err != nil {
		return FSUsage{}, fmt.Errorf("wait for the measurement of volumes of container %s in pod %s: %w", container, pod, err)
	}
	defer free()
	if use, ok := v.usage.get(key); ok {
		return use, nil
	}
	begun := time.Now()
	use, err := v.measure(ctx, dir)
	if err != nil {
		return FSUsage{}, fmt.Errorf("measure volumes of container %s in pod %s: %w", container, pod, err)
	}
	v.usage.mu.Lock()
	defer v.usage.mu.Unlock()
	v.usage.m[key] = measured{use, max(usageAge, measureShare*time.Since(begun))}
	return use, nil
}

// measure walks the volumes of one container; what changes meanwhile is counted or not.
func (v *Volumes) measure(ctx context.Context, dir string) (FSUsage, error) {
	volumes, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return FSUsage{}, err
	}
	m := &meter{ctx: ctx, seen: map[inode]struct{}{}}
	for _, e := range volumes {
		vol := filepath.Join(dir, e.Name(), volumeFS)
		fd, err := unix.Open(vol, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return FSUsage{}, &fs.PathError{Op: "open", Path: vol, Err: err}
		}
		if err := m.folder(fd, 0); err != nil {
			return FSUsage{}, err
		}
	}
	if err := m.visitDeep(dir); err != nil {
		return FSUsage{}, err
	}
	return FSUsage{Mountpoint: v.dir, Bytes: m.bytes, Inodes: m.inodes, Time: time.Now()}, nil
}

// meter adds up what files take.
type meter struct {
	ctx           context.Context
	seen          map[inode]struct{} // files with several names
	deep          []unix.FileHandle
	bytes, inodes uint64
}

// visitDeep counts the folders that were put off. Where the filesystem has no handles there are none.
func (m *meter) visitDeep(mounted string) error {
	if len(m.deep) == 0 {
		return nil
	}
	fs, err := unix.Open(mounted, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fs)
	for len(m.deep) > 0 {
		h := m.deep[len(m.deep)-1]
		m.deep = m.deep[:len(m.deep)-1]
		fd, err := unix.OpenByHandleAt(fs, h, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC)
		if err != nil {
			continue // removed meanwhile, or this process may not use handles
		}
		if err := m.folder(fd, 0); err != nil {
			return err
		}
	}
	return nil
}

// folder counts an open folder, which it closes, and all below it. Containers may be changing it.
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
