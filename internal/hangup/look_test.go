package hangup

import (
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/integration/faults"
	"github.com/cri-pouch/cri-pouch/internal/pollfile"
)

// socket is a connection that needs no place in the poller.
type socket struct {
	net.Conn
	file *pollfile.File
}

func (s socket) SyscallConn() (syscall.RawConn, error) { return s.file.SyscallConn() }

func socketPair(t *testing.T) (near, far socket) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	near, far = socket{file: pollfile.New(fds[0], "near")}, socket{file: pollfile.New(fds[1], "far")}
	t.Cleanup(func() { near.file.Close(); far.file.Close() })
	return near, far
}

// An epoll instance that has no place in Go's poller, and sockets that have none in it.
func TestEndIsToldWithoutRoomForWatches(t *testing.T) {
	if faults.Again(t, "epoll_ctl:error=ENOSPC:when=2+") {
		for range 3 { // the first call of each thread has no fault
			tellOfSockets(t, newWatcher(t))
		}
	}
}

func TestEndIsToldWithoutAnInstance(t *testing.T) {
	if !faults.Again(t, "epoll_create1:error=EMFILE:when=2+") {
		return
	}
	w := newWatcher(t)
	for w.epoll != nil { // the first call of each thread has no fault
		w = newWatcher(t)
	}
	tellOfSockets(t, w)
}

func tellOfSockets(t *testing.T, w *Watcher) {
	t.Helper()
	near, far := socketPair(t)
	gone, stop := watch(t, w, near)
	defer stop()
	other, _ := socketPair(t)
	early, stopOther := watch(t, w, other)
	defer stopOther()
	if _, err := far.file.Write([]byte("unread")); err != nil {
		t.Fatal(err)
	}
	if err := far.file.Close(); err != nil {
		t.Fatal(err)
	}
	want(t, gone)
	select {
	case <-early:
		t.Error("an end is told that is none")
	case <-time.After(2 * lookPause):
	}
}
