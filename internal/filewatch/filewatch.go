// Package filewatch tells of writes to single files, also of files that a container's root may write to as often as it likes.
package filewatch

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"unsafe"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// Watcher tells of writes to any number of files through one inotify instance: a user has 128 of them (inotify(7)).
type Watcher struct {
	log *logrus.Entry

	mu      sync.Mutex
	file    *os.File
	watches map[int32]watch
}

type watch struct {
	changed func()
	once    bool
}

// None is the ID of no watch.
const None ID = -1

// ID names a watch of a Watcher.
type ID int32

// New gives a Watcher without files; Close ends it.
func New(log *logrus.Entry) (*Watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make inotify instance (see fs.inotify.max_user_instances): %w", err)
	}
	w := &Watcher{log: log, file: os.NewFile(uintptr(fd), "inotify"), watches: map[int32]watch{}}
	go w.read()
	return w, nil
}

// Close ends all watches.
func (w *Watcher) Close() { _ = w.file.Close() }

// Each calls changed after each write to the file and once it is gone, until Forget is called with the ID that it gives.
// changed must not block. It is for files that only the kernel or the runtime write to.
func (w *Watcher) Each(path string, changed func()) (ID, error) {
	return w.add(path, watch{changed: changed}, unix.IN_MODIFY)
}

// Once calls changed after the next write to the file, when somebody who may write to it has closed it, or once it is gone,
// unless Forget is called before with the ID that it gives: what happens after it costs nobody anything until Once is called
// again. A file has one watch at a time. changed must not block.
func (w *Watcher) Once(path string, changed func()) (ID, error) {
	return w.add(path, watch{changed: changed, once: true}, unix.IN_MODIFY|unix.IN_CLOSE_WRITE|unix.IN_ONESHOT)
}

// add follows no link at path: root in a container may have put one there that leads to the file of
// another container, whose watch would then be replaced.
func (w *Watcher) add(path string, entry watch, mask uint32) (ID, error) {
	raw, err := w.file.SyscallConn()
	if err != nil {
		return None, fmt.Errorf("watch %s: %w", path, err)
	}
	w.mu.Lock() // the first event may come before the entry is made
	defer w.mu.Unlock()
	var wd int
	var addErr error
	err = raw.Control(func(fd uintptr) { wd, addErr = unix.InotifyAddWatch(int(fd), path, mask|unix.IN_DONT_FOLLOW) })
	if err = errors.Join(err, addErr); err != nil {
		return None, fmt.Errorf("watch %s (see fs.inotify.max_user_watches): %w", path, err)
	}
	w.watches[int32(wd)] = entry
	return ID(wd), nil
}

// Forget ends a watch; what has ended, and None, it leaves alone.
func (w *Watcher) Forget(id ID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.watches[int32(id)]; ok {
		w.forget(int32(id))
	}
}

func (w *Watcher) forget(wd int32) {
	delete(w.watches, wd)
	if raw, err := w.file.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _, _ = unix.InotifyRmWatch(int(fd), uint32(wd)) })
	}
}

func (w *Watcher) read() {
	b := make([]byte, 64*(unix.SizeofInotifyEvent))
	for {
		size, err := w.file.Read(b)
		if err != nil {
			if !errors.Is(err, os.ErrClosed) {
				w.log.WithError(err).Error("watching files")
			}
			return
		}
		for at := 0; at+unix.SizeofInotifyEvent <= size; {
			e := (*unix.InotifyEvent)(unsafe.Pointer(&b[at]))
			at += unix.SizeofInotifyEvent + int(e.Len)
			for _, changed := range w.concerned(e) {
				changed()
			}
		}
	}
}

// concerned gives whom an event is for: all, where the kernel had no room for more events.
func (w *Watcher) concerned(e *unix.InotifyEvent) (changed []func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e.Mask&unix.IN_Q_OVERFLOW != 0 {
		for wd, entry := range w.watches {
			changed = append(changed, entry.changed)
			if entry.once {
				w.forget(wd)
			}
		}
		return changed
	}
	// The kernel takes a watch for one write away after it has told of it. Who sets it again in between is given the one that
	// goes, and nothing more would come of it: the end of a watch counts as a write.
	entry, ok := w.watches[e.Wd]
	if !ok || e.Mask&(unix.IN_MODIFY|unix.IN_CLOSE_WRITE|unix.IN_IGNORED) == 0 {
		return nil
	}
	if entry.once || e.Mask&unix.IN_IGNORED != 0 {
		delete(w.watches, e.Wd)
	}
	return []func(){entry.changed}
}
