package pollfile

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/integration/faults"
)

func newPipe(t *testing.T) (r, w *File) {
	t.Helper()
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	r, w = New(fds[0], "reading end"), New(fds[1], "writing end")
	t.Cleanup(func() {
		r.Close()
		w.Close()
	})
	return r, w
}

// What holds for a file that is polled holds for one that the kernel does not register.
func TestFiles(t *testing.T) { testFiles(t, true) }

func TestFilesWithoutAPlaceInThePoller(t *testing.T) {
	if faults.Again(t, "epoll_ctl:error=ENOSPC:when=2+") {
		testFiles(t, false)
	}
}

func TestFilesWhileMemoryIsShort(t *testing.T) {
	if faults.Again(t, "epoll_ctl:error=ENOMEM:when=2+", "read:error=ENOMEM:when=3..8") {
		moveText(t)
	}
}

func testFiles(t *testing.T, polled bool) {
	if r, w := newPipe(t); r.polled != polled || w.polled != polled {
		t.Fatalf("polled: %t, %t", r.polled, w.polled)
	}
	t.Run("text", moveText)
	t.Run("deadline", passDeadline)
	t.Run("close", closeWaiting)
}

// The text is longer than a pipe, so that both sides wait.
func moveText(t *testing.T) {
	r, w := newPipe(t)
	text := strings.Repeat("as it was written ", 20_000)
	written := make(chan error, 1)
	go func() {
		n, err := io.WriteString(w, text)
		if err == nil && n != len(text) {
			err = io.ErrShortWrite
		}
		w.Close()
		written <- err
	}()
	got, err := io.ReadAll(r)
	if err != nil || string(got) != text {
		t.Errorf("%d of %d bytes came, %v", len(got), len(text), err)
	}
	if err := <-written; err != nil {
		t.Error(err)
	}
}

// A deadline that is set while somebody waits counts, and it can be taken back.
func passDeadline(t *testing.T) {
	r, w := newPipe(t)
	read := make(chan error, 1)
	go func() {
		_, err := r.Read(make([]byte, 1))
		read <- err
	}()
	if err := r.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if err := <-read; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Read gave %v", err)
	}
	if err := r.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if n, err := r.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	full := make([]byte, 1<<20)
	if err := w.SetWriteDeadline(time.Now().Add(time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := w.Write(full); n == 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%d bytes were written to a full pipe, %v", n, err)
	}
}

func closeWaiting(t *testing.T) {
	r, _ := newPipe(t)
	read := make(chan error, 1)
	go func() {
		_, err := r.Read(make([]byte, 1))
		read <- err
	}()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-read; !errors.Is(err, os.ErrClosed) {
		t.Errorf("Read gave %v", err)
	}
	raw, err := r.SyscallConn()
	if err == nil {
		err = raw.Control(func(uintptr) { t.Error("a closed descriptor is used") })
	}
	if !errors.Is(err, os.ErrClosed) {
		t.Errorf("Control gave %v", err)
	}
}

// The shortage passes after a while; what comes and goes until then is not lost.
func TestAFileIsRegisteredWhenThereIsRoom(t *testing.T) {
	if !faults.Again(t, "epoll_ctl:error=ENOSPC:when=2..9") { // of each thread
		return
	}
	r, w := newPipe(t)
	if r.polled || w.polled {
		t.Fatal("the fault has no effect")
	}
	deadline := time.Now().Add(time.Minute)
	if err := r.SetReadDeadline(deadline); err != nil {
		t.Fatal(err)
	}
	read := make(chan error, 1)
	go func() {
		b, err := io.ReadAll(r)
		if err == nil && string(b) != "late" {
			err = errors.New("it read " + string(b))
		}
		read <- err
	}()
	for polled := false; !polled; time.Sleep(time.Millisecond) {
		if _, polled, _ = r.current(reading); time.Now().After(deadline) {
			t.Fatal("it is never registered")
		}
	}
	if _, err := io.WriteString(w, "late"); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if err := <-read; err != nil {
		t.Error(err)
	}
}
