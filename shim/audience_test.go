package shim

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/pollfile"
)

// listener attaches to an audience and gives the reading end of its stdout.
func listener(t *testing.T, a *audience) (*attachment, *os.File) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "stdout")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	w, err := openFIFO(path, unix.O_WRONLY)
	if err != nil {
		t.Fatal(err)
	}
	m := newAttachment()
	m.lead("stdout", w)
	if err := a.add(m); err != nil {
		t.Fatal(err)
	}
	m.start()
	t.Cleanup(func() {
		m.detach(nil)
		m.running.Wait()
		a.drop(m)
		r.Close()
	})
	return m, r
}

func gone(t *testing.T, m *attachment) error {
	t.Helper()
	select {
	case <-m.gone:
		return m.err
	case <-time.After(time.Minute):
		t.Fatal("still attached")
		return nil
	}
}

func TestAudienceGetsWhatTheLogGets(t *testing.T) {
	a := &audience{}
	var log bytes.Buffer
	out, other := a.tee("stdout", &log), a.tee("stderr", &log)
	_, _ = out.Write([]byte("before "))
	m, r := listener(t, a)
	_, _ = out.Write([]byte("after "))
	_, _ = other.Write([]byte("elsewhere"))
	a.end()
	if err := gone(t, m); err != nil {
		t.Error(err)
	}
	b := make([]byte, 100)
	n, err := r.Read(b)
	if err != nil || string(b[:n]) != "after " || log.String() != "before after elsewhere" {
		t.Errorf("%q, %v; log %q", b[:n], err, &log)
	}
	if err := a.add(newAttachment()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("after the end: %v", err)
	}
}

func TestAudienceDoesNotWait(t *testing.T) {
	for _, pace := range []bool{false, true} {
		a := &audience{pace: pace}
		var log bytes.Buffer
		out := a.tee("stdout", &log)
		m, _ := listener(t, a)
		begin := time.Now()
		piece := bytes.Repeat([]byte("x"), 64<<10)
		for range 100 {
			_, _ = out.Write(piece)
		}
		took := time.Since(begin)
		if err := gone(t, m); !errors.Is(err, errSlow) {
			t.Errorf("pace %v: %v", pace, err)
		}
		if log.Len() != 100*len(piece) {
			t.Errorf("pace %v: the log has %d bytes", pace, log.Len())
		}
		if limit := time.Minute; took > limit || pace && took < paceLimit {
			t.Errorf("pace %v: it took %s", pace, took)
		}
	}
}

// A terminal's program waits for a reader that reads, however slowly.
func TestAudiencePaces(t *testing.T) {
	a := &audience{pace: true}
	out := a.tee("stdout", &bytes.Buffer{})
	m, r := listener(t, a)
	total := make(chan int)
	go func() {
		sum, b := 0, make([]byte, 64<<10)
		for {
			n, err := r.Read(b)
			sum += n
			if err != nil || sum == 6400<<10 {
				total <- sum
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	for range 100 {
		_, _ = out.Write(bytes.Repeat([]byte("x"), 64<<10))
	}
	if n := <-total; n != 6400<<10 {
		t.Errorf("%d bytes arrived", n)
	}
	a.end()
	if err := gone(t, m); err != nil {
		t.Error(err)
	}
}

func TestHungUp(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, end := range map[string]func(r *os.File, w *pollfile.File){
		"the reader closes":                    func(r *os.File, _ *pollfile.File) { r.Close() },
		"the reader closes with data unread":   func(r *os.File, w *pollfile.File) { _, _ = w.Write([]byte("x")); r.Close() },
		"the reader closes while it is full":   func(r *os.File, w *pollfile.File) { fill(w); r.Close() },
		"the writing end is closed by its own": func(_ *os.File, w *pollfile.File) { w.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			r, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			w, err := openFIFO(path, unix.O_WRONLY)
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			done := make(chan struct{})
			go func() { defer close(done); hungUp(w) }()
			select {
			case <-done:
				t.Error("told too early")
			case <-time.After(50 * time.Millisecond):
			}
			end(r, w)
			select {
			case <-done:
			case <-time.After(time.Minute):
				t.Error("not told")
			}
		})
	}
}

// fill writes until the pipe is full.
func fill(w *pollfile.File) {
	_ = w.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
	for {
		if _, err := w.Write(make([]byte, 4096)); err != nil {
			return
		}
	}
}

func TestInlet(t *testing.T) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	r, w := pollfile.New(fds[0], "reading end"), pollfile.New(fds[1], "writing end")
	defer r.Close()
	i := &inlet{base: w, owned: true}
	a, err := i.open()
	if err != nil {
		t.Fatal(err)
	}
	b, err := i.open()
	if err != nil {
		t.Fatal(err)
	}
	_, _ = a.Write([]byte("a"))
	i.release(a)
	_, _ = b.Write([]byte("b"))
	blocked := make(chan struct{})
	go func() {
		defer close(blocked)
		_, _ = b.Write(make([]byte, 1<<20))
	}()
	select {
	case <-blocked:
		t.Error("a full pipe took everything")
	case <-time.After(50 * time.Millisecond):
	}
	if err := i.close(); err != nil {
		t.Fatal(err)
	}
	<-blocked // its descriptor was taken away
	if _, err := i.open(); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("after the end: %v", err)
	}
	if err := i.close(); err != nil {
		t.Errorf("again: %v", err)
	}
	text := make([]byte, 2)
	if _, err := r.Read(text); err != nil || string(text) != "ab" {
		t.Errorf("%q, %v", text, err)
	}
}
