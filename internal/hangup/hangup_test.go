package hangup

import (
	"net"
	"testing"
	"time"
)

// pair gives both ends of a TCP connection.
func pair(t *testing.T) (near, far net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if far, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if near, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

func newWatcher(t *testing.T) *Watcher {
	t.Helper()
	w, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

func watch(t *testing.T, w *Watcher, c net.Conn) (gone chan struct{}, stop func()) {
	t.Helper()
	gone = make(chan struct{})
	stop, err := w.Watch(c, func() { close(gone) })
	if err != nil {
		t.Fatal(err)
	}
	return gone, stop
}

func want(t *testing.T, gone chan struct{}) {
	t.Helper()
	select {
	case <-gone:
	case <-time.After(time.Minute):
		t.Fatal("the end was not told")
	}
}

func TestEndIsTold(t *testing.T) {
	w := newWatcher(t)
	for name, end := range map[string]func(far *net.TCPConn) error{
		"closed":    func(far *net.TCPConn) error { return far.Close() },
		"reset":     func(far *net.TCPConn) error { return far.SetLinger(0) },
		"shut down": func(far *net.TCPConn) error { return far.CloseWrite() },
		"behind unread data": func(far *net.TCPConn) error {
			if _, err := far.Write(make([]byte, 1000)); err != nil {
				return err
			}
			return far.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			near, far := pair(t)
			gone, stop := watch(t, w, near)
			defer stop()
			if err := end(far.(*net.TCPConn)); err != nil {
				t.Fatal(err)
			}
			if name == "reset" {
				far.Close()
			}
			want(t, gone)
		})
	}
}

func TestEndBeforeTheWatchIsTold(t *testing.T) {
	w := newWatcher(t)
	near, far := pair(t)
	far.Close()
	// The end has arrived when a read sees it.
	if _, err := near.Read(make([]byte, 1)); err == nil {
		t.Fatal("no end")
	}
	gone, stop := watch(t, w, near)
	defer stop()
	want(t, gone)
}

func TestNothingIsToldWithoutEnd(t *testing.T) {
	w := newWatcher(t)
	near, far := pair(t)
	stopped, otherFar := pair(t)
	gone, stop := watch(t, w, near)
	defer stop()
	silent, stopSilent := watch(t, w, stopped)
	stopSilent()
	otherFar.Close()
	if _, err := far.Write([]byte("data")); err != nil {
		t.Fatal(err)
	}
	// A third one whose end is told shows that the watcher has passed by the others.
	third, thirdFar := pair(t)
	told, stopThird := watch(t, w, third)
	defer stopThird()
	thirdFar.Close()
	want(t, told)
	select {
	case <-gone:
		t.Error("data was taken for the end")
	case <-silent:
		t.Error("a stopped watch told")
	default:
	}
	if len(w.calls) != 1 {
		t.Errorf("%d watches are left, want 1", len(w.calls))
	}
}

func TestClose(t *testing.T) {
	w, err := New()
	if err != nil {
		t.Fatal(err)
	}
	near, _ := pair(t)
	if _, err := w.Watch(near, func() {}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Watch(near, func() {}); err == nil {
		t.Error("a closed watcher took a connection")
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if _, err := newWatcher(t).Watch(a, func() {}); err == nil {
		t.Error("a connection without descriptor was taken")
	}
}
