package fusefs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Content is what File holds.
const Content = "served\n"

// Names of what the root folder holds; Folder holds a File too.
const (
	File   = "file"
	Folder = "folder"
)

// Request is what the kernel asks.
type Request struct {
	Op   Op
	Name string // of a lookup
	Pid  int    // the thread that asks
	N    int    // how many requests there were before, INIT not counted
}

// Verdict is what becomes of a request.
type Verdict int

// A request is served, gets no answer until Resume, or fails with EIO.
const (
	Serve Verdict = iota
	Hang
	Fail
)

// Options of a mount.
type Options struct {
	// DefaultPermissions lets the kernel check modes. Without it the kernel asks for the permission to enter a folder.
	DefaultPermissions bool
	// IDMap lets mounts of the file system be idmapped, which needs DefaultPermissions and a kernel since 6.12.
	IDMap bool
}

// FS is a file system that is mounted.
type FS struct {
	dir string
	dev *os.File
	o   Options

	mu     sync.Mutex
	judge  func(Request) Verdict
	seen   int
	held   []message
	waited map[Op]chan struct{} // closed once a request of that kind hangs
	ended  chan struct{}
}

// Mount mounts a file system at a folder and serves it until Close.
func Mount(dir string, o Options) (*FS, error) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/fuse: %w", err)
	}
	// A blocking descriptor: reads end when the connection is aborted.
	f := &FS{dir: dir, dev: os.NewFile(uintptr(fd), "/dev/fuse"), o: o, waited: map[Op]chan struct{}{}, ended: make(chan struct{})}
	f.Serve()
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", fd)
	if o.DefaultPermissions {
		options += ",default_permissions"
	}
	if err := unix.Mount("fusefs", dir, "fuse", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		_ = f.dev.Close()
		return nil, fmt.Errorf("mount a FUSE file system at %s: %w", dir, err)
	}
	go f.loop(fd)
	return f, nil
}

// When sets what becomes of requests from now on. judge must not block.
func (f *FS) When(judge func(Request) Verdict) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.judge = judge
}

// HangOn lets requests of these kinds hang from now on, or all, and serves the others.
func (f *FS) HangOn(ops ...Op) {
	f.When(func(r Request) Verdict {
		for _, op := range ops {
			if op == r.Op {
				return Hang
			}
		}
		if len(ops) == 0 {
			return Hang
		}
		return Serve
	})
}

// HangFrom lets everything hang from the n-th request on, counted from 0.
func (f *FS) HangFrom(n int) {
	f.When(func(r Request) Verdict {
		if r.N >= n {
			return Hang
		}
		return Serve
	})
}

// Serve serves everything from now on. What hangs goes on hanging.
func (f *FS) Serve() { f.When(func(Request) Verdict { return Serve }) }

// Resume serves everything from now on, and what hangs.
func (f *FS) Resume() {
	f.Serve()
	f.mu.Lock()
	held := f.held
	f.held, f.waited = nil, map[Op]chan struct{}{}
	f.mu.Unlock()
	for _, m := range held {
		f.serve(m)
	}
}

// AwaitHang waits until somebody hangs in a request of that kind, or of any for Any.
func (f *FS) AwaitHang(ctx context.Context, op Op) error {
	f.mu.Lock()
	hangs := f.hanging(op)
	f.mu.Unlock()
	select {
	case <-hangs:
		return nil
	case <-f.ended:
		return fmt.Errorf("wait for %s at %s: the file system is closed", op, f.dir)
	case <-ctx.Done():
		return fmt.Errorf("wait for %s at %s: %w", op, f.dir, ctx.Err())
	}
}

// hanging must be called with mu held.
func (f *FS) hanging(op Op) chan struct{} {
	if f.waited[op] == nil {
		f.waited[op] = make(chan struct{})
	}
	return f.waited[op]
}

// Abort ends the connection: whoever hangs gets an error, and so does whoever comes. The mount stays where it is in use.
func (f *FS) Abort() error {
	// MNT_FORCE aborts, and gives EBUSY where the mount is used.
	if err := unix.Unmount(f.dir, unix.MNT_FORCE|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("abort the FUSE file system at %s: %w", f.dir, err)
	}
	<-f.ended
	return nil
}

// Close aborts the connection and takes the mount away.
func (f *FS) Close() error {
	err := f.Abort()
	if detach := unix.Unmount(f.dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); detach != nil && !errors.Is(detach, unix.EINVAL) {
		err = errors.Join(err, fmt.Errorf("unmount %s: %w", f.dir, detach))
	}
	return err
}

// loop reads requests until the connection ends.
func (f *FS) loop(fd int) {
	defer close(f.ended)
	defer f.dev.Close()
	buf := make([]byte, 128<<10)
	for {
		n, err := unix.Read(fd, buf)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOENT): // ENOENT: it was interrupted
			continue
		case err != nil || n == 0:
			return
		}
		if m, ok := parse(buf[:n]); ok {
			f.decide(m)
		}
	}
}

func (f *FS) decide(m message) {
	if m.op == opInit {
		f.serve(m)
		return
	}
	f.mu.Lock()
	verdict := f.judge(Request{Op: m.op, Name: m.name(), Pid: int(m.pid), N: f.seen})
	f.seen++
	if verdict == Hang && m.answered() {
		f.held = append(f.held, m)
		for _, op := range []Op{m.op, Any} {
			if hangs := f.hanging(op); !isClosed(hangs) {
				close(hangs)
			}
		}
	}
	f.mu.Unlock()
	switch verdict {
	case Serve:
		f.serve(m)
	case Fail:
		f.reply(m, -int32(unix.EIO), nil)
	}
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
