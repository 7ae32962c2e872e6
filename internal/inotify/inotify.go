// Package inotify is one inotify instance that waits on Go's network poller, or without a place there (inotify(7)).
package inotify

import (
	"bytes"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/pollfile"
)

// Instance is an inotify instance. Read is for one goroutine, everything else is safe for concurrent use.
type Instance struct {
	file *pollfile.File
	buf  [4096]byte // of Read: more than the longest event takes
}

// Event says what happened to a watched file, or to the file Name in a watched folder.
type Event struct {
	Watch int32
	Mask  uint32
	Name  string
}

// Open makes an instance. A user has fs.inotify.max_user_instances of them.
func Open() (*Instance, error) {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make inotify instance (see fs.inotify.max_user_instances): %w", err)
	}
	return &Instance{file: pollfile.New(fd, "inotify")}, nil
}

// Add watches a path and gives the number of the watch, which is the one that the file has already, if any.
func (i *Instance) Add(path string, mask uint32) (int32, error) {
	raw, err := i.file.SyscallConn()
	if err != nil {
		return -1, fmt.Errorf("watch %s: %w", path, err)
	}
	var wd int
	var addErr error
	err = raw.Control(func(fd uintptr) { wd, addErr = unix.InotifyAddWatch(int(fd), path, mask) })
	if err = errors.Join(err, addErr); err != nil {
		return -1, fmt.Errorf("watch %s (see fs.inotify.max_user_watches): %w", path, err)
	}
	return int32(wd), nil
}

// Remove ends a watch; one that has ended it leaves alone.
func (i *Instance) Remove(watch int32) {
	if raw, err := i.file.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _, _ = unix.InotifyRmWatch(int(fd), uint32(watch)) })
	}
}

// Read waits for events; os.ErrClosed after Close.
func (i *Instance) Read() ([]Event, error) {
	size, err := i.file.Read(i.buf[:])
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	var events []Event
	for at := 0; at+unix.SizeofInotifyEvent <= size; {
		e := (*unix.InotifyEvent)(unsafe.Pointer(&i.buf[at]))
		at += unix.SizeofInotifyEvent
		name := i.buf[at : at+int(e.Len)]
		at += int(e.Len)
		events = append(events, Event{Watch: e.Wd, Mask: e.Mask, Name: string(bytes.TrimRight(name, "\x00"))})
	}
	return events, nil
}

// Close ends all watches.
func (i *Instance) Close() error { return i.file.Close() }
