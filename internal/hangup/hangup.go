// Package hangup tells when the other side of a socket has gone, without reading from the socket: whoever owns the
// stream may be busy elsewhere, and what stands unread before the end would hide it.
package hangup

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/crash"
	"github.com/cri-pouch/cri-pouch/internal/exhaustion"
	"github.com/cri-pouch/cri-pouch/internal/pollfile"
)

// lookPause is the time between two looks at a socket that has no place in the epoll instance.
const lookPause = time.Second

// Watcher watches any number of sockets with one goroutine and no thread: its epoll instance waits on Go's own poller.
// It is safe for concurrent use.
//
// Where the kernel has no room for a socket, which it counts against the user's limit of watches, the socket is looked at
// once a second instead.
type Watcher struct {
	epoll  *pollfile.File // nil: all sockets are looked at
	raw    syscall.RawConn
	closed chan struct{}
	done   sync.WaitGroup

	mu    sync.Mutex
	next  int32
	calls map[int32]func()
}

// New starts a Watcher; Close ends it.
func New() (*Watcher, error) {
	w := &Watcher{closed: make(chan struct{}), calls: map[int32]func(){}}
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if exhaustion.Is(err) {
		return w, nil
	}
	if err != nil {
		return nil, fmt.Errorf("make epoll instance: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // os.NewFile hands only such descriptors to the poller
		unix.Close(fd)
		return nil, fmt.Errorf("make epoll instance: %w", err)
	}
	w.epoll = pollfile.New(fd, "epoll")
	if w.raw, err = w.epoll.SyscallConn(); err != nil {
		w.epoll.Close()
		return nil, fmt.Errorf("make epoll instance: %w", err)
	}
	w.done.Go(crash.Guard(nil, "watch connections", w.run))
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
	if w.epoll == nil {
		return w.lookAt(raw, id), nil
	}
	event := unix.EpollEvent{Events: unix.EPOLLRDHUP | unix.EPOLLONESHOT, Fd: id}
	err = w.control(raw, unix.EPOLL_CTL_ADD, &event)
	if exhaustion.Is(err) {
		return w.lookAt(raw, id), nil
	}
	if err != nil {
		w.take(id)
		return nil, fmt.Errorf("watch connection from %s: %w", conn.RemoteAddr(), err)
	}
	return func() {
		w.take(id)
		_ = w.control(raw, unix.EPOLL_CTL_DEL, nil)
	}, nil
}

// lookAt looks at a socket once a second, until it has failed, the watch is stopped or the Watcher closed.
func (w *Watcher) lookAt(raw syscall.RawConn, id int32) (stop func()) {
	stopped := make(chan struct{})
	w.done.Go(crash.Guard(nil, "look at a connection", func() {
		ticker := time.NewTicker(lookPause)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
			case <-stopped:
				return
			case <-w.closed:
				return
			}
			gone := false
			if err := raw.Control(func(fd uintptr) { gone = hungUp(int(fd)) }); err == nil && !gone {
				continue
			}
			if call := w.take(id); call != nil {
				call()
			}
			return
		}
	}))
	return sync.OnceFunc(func() {
		w.take(id)
		close(stopped)
	})
}

// hungUp reports what epoll would have told of. A want of memory is no end.
func hungUp(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
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
				crash.Run(nil, "tell of the end of a connection", gone)
			}
		}
	}
}

// Close ends all watches.
func (w *Watcher) Close() error {
	close(w.closed)
	err := error(nil)
	if w.epoll != nil {
		err = w.epoll.Close()
	}
	w.done.Wait()
	return err
}
