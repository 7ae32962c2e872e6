// Package hangup tells when the other side of a socket has gone, without reading from the socket: whoever owns the
// stream may be busy elsewhere, and what stands unread before the end would hide it.
package hangup

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Watcher watches any number of sockets with one goroutine and no thread: its epoll instance waits on Go's own poller.
// It is safe for concurrent use.
type Watcher struct {
	epoll *os.File
	raw   syscall.RawConn
	done  chan struct{}

	mu    sync.Mutex
	next  int32
	calls map[int32]func()
}

// New starts a Watcher; Close ends it.
func New() (*Watcher, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make epoll instance: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // os.NewFile hands only such descriptors to the poller
		unix.Close(fd)
		return nil, fmt.Errorf("make epoll instance: %w", err)
	}
	w := &Watcher{epoll: os.NewFile(uintptr(fd), "epoll"), done: make(chan struct{}), calls: map[int32]func(){}}
	if w.raw, err = w.epoll.SyscallConn(); err != nil {
		w.epoll.Close()
		return nil, fmt.Errorf("make epoll instance: %w", err)
	}
	go w.run()
	return w, nil
}

// Watch calls gone, once and from another goroutine, when the other side of conn (a TCP or unix socket) has closed it or
// shut down its writing, or the connection has failed. stop ends the watch; call it before conn is closed. gone must not
// block.
func (w *Watcher) Watch(conn net.Conn, gone func()) (stop func(), err error) {
	s, ok := conn.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("watch connection from %s: a %T has no descriptor", conn.RemoteAddr(), conn)
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("watch connection from %s: %w", conn.RemoteAddr(), err)
	}
	// Events carry a number of our own: a descriptor's may be another connection's by the time that one is read.
	w.mu.Lock()
	w.next++
	id := w.next
	w.calls[id] = gone
	w.mu.Unlock()
	event := unix.EpollEvent{Events: unix.EPOLLRDHUP | unix.EPOLLONESHOT, Fd: id}
	err = w.control(raw, unix.EPOLL_CTL_ADD, &event)
	if err != nil {
		w.take(id)
		return nil, fmt.Errorf("watch connection from %s: %w", conn.RemoteAddr(), err)
	}
	return func() {
		w.take(id)
		_ = w.control(raw, unix.EPOLL_CTL_DEL, nil)
	}, nil
}

// control adds or removes the socket.
func (w *Watcher) control(raw syscall.RawConn, op int, event *unix.EpollEvent) error {
	var ctlErr error
	err := raw.Control(func(fd uintptr) {
		closed := w.raw.Control(func(epoll uintptr) { ctlErr = unix.EpollCtl(int(epoll), op, int(fd), event) })
		ctlErr = errors.Join(closed, ctlErr)
	})
	return errors.Join(err, ctlErr)
}

func (w *Watcher) take(id int32) func() {
	w.mu.Lock()
	defer w.mu.Unlock()
	gone := w.calls[id]
	delete(w.calls, id)
	return gone
}

func (w *Watcher) run() {
	defer close(w.done)
	events := make([]unix.EpollEvent, 64)
	for {
		var n int
		err := w.raw.Read(func(epoll uintptr) bool {
			n, _ = unix.EpollWait(int(epoll), events, 0)
			return n > 0
		})
		if err != nil {
			return // closed
		}
		for _, e := range events[:n] {
			if gone := w.take(e.Fd); gone != nil {
				gone()
			}
		}
	}
}

// Close ends all watches.
func (w *Watcher) Close() error {
	err := w.epoll.Close()
	<-w.done
	return err
}
