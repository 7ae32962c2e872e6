package shim

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"unsafe"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// notifier tells of changes to files of all containers through one inotify instance: a user has 128 of them (inotify(7)).
type notifier struct {
	log *logrus.Entry

	mu      sync.Mutex
	file    *os.File
	watches map[int32]func()
}

func newNotifier(log *logrus.Entry) (*notifier, error) {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make inotify instance: %w", err)
	}
	n := &notifier{log: log, file: os.NewFile(uintptr(fd), "inotify"), watches: map[int32]func(){}}
	go n.read()
	return n, nil
}

func (n *notifier) close() { _ = n.file.Close() }

// watch calls changed after each change to the file, until unwatch is called with what it gives. changed must not block.
func (n *notifier) watch(path string, changed func()) (int32, error) {
	raw, err := n.file.SyscallConn()
	if err != nil {
		return -1, fmt.Errorf("watch %s: %w", path, err)
	}
	n.mu.Lock() // the first event may come before the entry is made
	defer n.mu.Unlock()
	var wd int
	var addErr error
	err = raw.Control(func(fd uintptr) { wd, addErr = unix.InotifyAddWatch(int(fd), path, unix.IN_MODIFY) })
	if err = errors.Join(err, addErr); err != nil {
		return -1, fmt.Errorf("watch %s: %w", path, err)
	}
	n.watches[int32(wd)] = changed
	return int32(wd), nil
}

func (n *notifier) unwatch(wd int32) {
	if wd < 0 {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.watches, wd)
	if raw, err := n.file.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _, _ = unix.InotifyRmWatch(int(fd), uint32(wd)) })
	}
}

func (n *notifier) read() {
	b := make([]byte, 64*(unix.SizeofInotifyEvent))
	for {
		size, err := n.file.Read(b)
		if err != nil {
			if !errors.Is(err, os.ErrClosed) {
				n.log.WithError(err).Error("watching files")
			}
			return
		}
		for at := 0; at+unix.SizeofInotifyEvent <= size; {
			e := (*unix.InotifyEvent)(unsafe.Pointer(&b[at]))
			at += unix.SizeofInotifyEvent + int(e.Len)
			n.mu.Lock()
			changed := n.watches[e.Wd]
			n.mu.Unlock()
			if changed != nil {
				changed()
			}
		}
	}
}
