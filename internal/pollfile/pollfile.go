// Package pollfile has files that are waited for: pipes, terminals, pidfds, eventfds, inotify and epoll instances. They
// wait on Go's network poller and hold no thread.
//
// The kernel may refuse to register a descriptor there, for want of memory or at the user's limit of watches
// (fs.epoll.max_user_watches), which the node shares with every root in a container. An os.File that was not registered
// fails with EAGAIN instead of waiting, and has no deadlines. A File is looked at from time to time then, with pauses of 1
// to 200 ms, and registered as soon as the kernel has room for it.
package pollfile

import (
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/exhaustion"
)

const (
	firstLook     = time.Millisecond
	maxLook       = 200 * time.Millisecond
	registerPause = time.Second // between two attempts to register a descriptor
)

// File is one non-blocking descriptor. It is safe for concurrent use.
type File struct {
	name   string
	once   sync.Once
	closed chan struct{}

	mu         sync.Mutex
	file       *os.File
	polled     bool // file is registered with the poller, and is never exchanged again
	registerAt time.Time
	deadlines  [2]time.Time // by side
}

type side int

const (
	reading side = iota
	writing
)

// New takes hold of a descriptor, which must be non-blocking. Close closes it.
func New(fd int, name string) *File {
	f := &File{name: name, closed: make(chan struct{}), file: os.NewFile(uintptr(fd), name)}
	f.polled = registered(f.file)
	f.registerAt = time.Now().Add(registerPause)
	return f
}

// registered reports whether a file waits on the poller: only such files have deadlines.
func registered(f *os.File) bool { return f.SetDeadline(time.Time{}) == nil }

// Name is what New was given.
func (f *File) Name() string { return f.name }

// Read is io.Reader's. It waits for input, also where the kernel has no memory for it.
func (f *File) Read(p []byte) (int, error) {
	var pause exhaustion.Pause
	for {
		n, err := f.transfer(reading, func(fd int) (int, error) { return unix.Read(fd, p) })
		switch {
		case err == nil && n == 0 && len(p) > 0:
			return 0, io.EOF
		case err == nil || !exhaustion.Is(err) || !f.pause(&pause):
			return n, f.named("read", err)
		}
	}
}

// Write is io.Writer's. It waits for room, also where the kernel has no memory for what comes.
func (f *File) Write(p []byte) (int, error) {
	var pause exhaustion.Pause
	for done := 0; ; {
		n, err := f.transfer(writing, func(fd int) (int, error) { return unix.Write(fd, p[done:]) })
		if done += n; n > 0 {
			pause.Reset()
		}
		switch {
		case err == nil && done >= len(p):
			return done, nil
		case err != nil && (!exhaustion.Is(err) || !f.pause(&pause)):
			return done, f.named("write", err)
		}
	}
}

// transfer makes a call once the descriptor is ready for it.
func (f *File) transfer(s side, call func(fd int) (int, error)) (n int, err error) {
	waitErr := f.await(s, func(fd uintptr) bool {
		for {
			if n, err = call(int(fd)); err != unix.EINTR {
				return err != unix.EAGAIN
			}
		}
	})
	if waitErr != nil {
		return 0, waitErr
	}
	return max(n, 0), err
}

func (f *File) named(op string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: f.name, Err: err}
}

// pause waits before a call is made again, and reports whether it is worth it.
func (f *File) pause(p *exhaustion.Pause) bool {
	select {
	case <-time.After(p.Next()):
		return true
	case <-f.closed:
		return false
	}
}

// await returns nil once ready, which is called each time that the descriptor may have become so, says that it is.
func (f *File) await(s side, ready func(fd uintptr) bool) error {
	for look := firstLook; ; look = min(2*look, maxLook) {
		file, polled, deadline := f.current(s)
		if polled {
			return f.poll(s, file, ready)
		}
		if !deadline.IsZero() {
			left := time.Until(deadline)
			if left <= 0 {
				return os.ErrDeadlineExceeded
			}
			look = min(look, left)
		}
		done := false
		if err := f.control(func(fd uintptr) { done = ready(fd) }); err != nil || done {
			return err
		}
		select {
		case <-time.After(look):
			f.register()
		case <-f.closed:
			return os.ErrClosed
		}
	}
}

func (f *File) poll(s side, file *os.File, ready func(fd uintptr) bool) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	if s == reading {
		err = raw.Read(ready)
	} else {
		err = raw.Write(ready)
	}
	if err != nil && f.isClosed() { // package os says it in a way that is no os.ErrClosed
		return os.ErrClosed
	}
	return err
}

// control calls fn with the descriptor, which is not closed meanwhile.
func (f *File) control(fn func(fd uintptr)) error {
	for {
		file, _, _ := f.current(reading)
		raw, err := file.SyscallConn()
		if err != nil {
			return err
		}
		switch err = raw.Control(fn); {
		case err == nil:
			return nil
		case f.isClosed():
			return os.ErrClosed
		case !f.exchanged(file):
			return err
		}
	}
}

func (f *File) isClosed() bool {
	select {
	case <-f.closed:
		return true
	default:
		return false
	}
}

func (f *File) current(s side) (file *os.File, polled bool, deadline time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.file, f.polled, f.deadlines[s]
}

// exchanged reports whether another file has taken the place of this one.
func (f *File) exchanged(file *os.File) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.file != file
}

// register tries to have the descriptor polled from now on. A file is registered when it is made: so a new one is made
// of a copy of the descriptor.
func (f *File) register() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.polled || time.Now().Before(f.registerAt) {
		return
	}
	f.registerAt = time.Now().Add(registerPause)
	raw, err := f.file.SyscallConn()
	if err != nil {
		return
	}
	fd := -1
	if err := raw.Control(func(old uintptr) { fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 3) }); err != nil || fd < 0 {
		return
	}
	next := os.NewFile(uintptr(fd), f.name)
	if !registered(next) {
		_ = next.Close()
		return
	}
	_ = next.SetReadDeadline(f.deadlines[reading])
	_ = next.SetWriteDeadline(f.deadlines[writing])
	_ = f.file.Close()
	f.file, f.polled = next, true
}

// SetReadDeadline is os.File's.
func (f *File) SetReadDeadline(t time.Time) error { return f.setDeadline(reading, t) }

// SetWriteDeadline is os.File's.
func (f *File) SetWriteDeadline(t time.Time) error { return f.setDeadline(writing, t) }

func (f *File) setDeadline(s side, t time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.deadlines[s] = t
	switch {
	case !f.polled:
		return nil // who waits looks at it
	case s == reading:
		return f.file.SetReadDeadline(t)
	}
	return f.file.SetWriteDeadline(t)
}

// Close closes the descriptor; who waits for it returns with os.ErrClosed. It may be called of nil, as os.File's.
func (f *File) Close() error {
	if f == nil {
		return os.ErrInvalid
	}
	f.once.Do(func() { close(f.closed) })
	f.mu.Lock()
	f.polled = true // and not to be exchanged any more
	file := f.file
	f.mu.Unlock()
	return file.Close()
}

// SyscallConn is syscall.Conn's. Its Read and Write wait as those of the File do.
func (f *File) SyscallConn() (syscall.RawConn, error) { return rawConn{f}, nil }

type rawConn struct{ f *File }

// Control is syscall.RawConn's.
func (r rawConn) Control(fn func(fd uintptr)) error { return r.f.control(fn) }

// Read is syscall.RawConn's.
func (r rawConn) Read(ready func(fd uintptr) bool) error { return r.f.await(reading, ready) }

// Write is syscall.RawConn's.
func (r rawConn) Write(ready func(fd uintptr) bool) error { return r.f.await(writing, ready) }
