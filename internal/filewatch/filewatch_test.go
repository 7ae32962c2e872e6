package filewatch

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
)

// newFile makes an empty file in a folder that goes with the test.
func newFile(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func write(t *testing.T, f *os.File) {
	t.Helper()
	if _, err := f.WriteString("x"); err != nil {
		t.Fatal(err)
	}
}

func newWatcher(t *testing.T) *Watcher {
	t.Helper()
	w := New(logrus.NewEntry(logrus.New()))
	t.Cleanup(w.Close)
	return w
}

// told has an element for each call.
type told chan struct{}

func (c told) tell() { c <- struct{}{} }

func (c told) await(t *testing.T, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(time.Minute):
		t.Fatal("not told: " + what)
	}
}

// settled waits until the events so far have been told: those of one instance come in their order.
func settled(t *testing.T, w *Watcher) {
	t.Helper()
	f, last := newFile(t), make(told, 1)
	id, err := w.Once(f.Name(), last.tell)
	if err != nil {
		t.Fatal(err)
	}
	write(t, f)
	last.await(t, "the last file")
	w.Forget(id)
}

func TestOnceTellsOfOneWrite(t *testing.T) {
	w, f, c := newWatcher(t), newFile(t), make(told, 100)
	for range 3 {
		if _, err := w.Once(f.Name(), c.tell); err != nil {
			t.Fatal(err)
		}
		for range 50 {
			write(t, f)
			settled(t, w)
		}
		c.await(t, "a write")
		if len(c) != 0 {
			t.Errorf("told of %d writes more", len(c))
		}
	}
	if len(w.watches) != 0 {
		t.Errorf("%d watches stay", len(w.watches))
	}
}

func TestEachTellsUntilForgotten(t *testing.T) {
	w, f, c := newWatcher(t), newFile(t), make(told, 100)
	id, err := w.Each(f.Name(), c.tell)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		write(t, f)
		c.await(t, "a write")
	}
	w.Forget(id)
	w.Forget(id)
	w.Forget(None)
	write(t, f)
	settled(t, w)
	if len(c) != 0 {
		t.Error("told of a write after it was forgotten")
	}
}

func TestForgottenBeforeTheWrite(t *testing.T) {
	w, f, c := newWatcher(t), newFile(t), make(told, 1)
	id, err := w.Once(f.Name(), c.tell)
	if err != nil {
		t.Fatal(err)
	}
	w.Forget(id)
	write(t, f)
	settled(t, w)
	if len(c) != 0 {
		t.Error("told of a write after it was forgotten")
	}
}

// Where the kernel has had no room for an event, its file is told of all the same.
func TestMoreEventsThanTheKernelKeeps(t *testing.T) {
	w, a, b, late := newWatcher(t), newFile(t), newFile(t), newFile(t)
	begun, goOn := make(told, 1), make(chan struct{})
	if _, err := w.Once(a.Name(), func() { begun.tell(); <-goOn }); err != nil {
		t.Fatal(err)
	}
	write(t, a)
	begun.await(t, "the first write")
	for _, f := range []*os.File{a, b} {
		if _, err := w.Each(f.Name(), func() {}); err != nil {
			t.Fatal(err)
		}
	}
	c := make(told, 1)
	if _, err := w.Once(late.Name(), c.tell); err != nil {
		t.Fatal(err)
	}
	for range 20_000 { // fs.inotify.max_queued_events is 16384; of two that are alike and follow each other it keeps one
		write(t, a)
		write(t, b)
	}
	write(t, late)
	close(goOn)
	c.await(t, "the file whose event was lost")
	if _, err := w.Once(late.Name(), c.tell); err != nil {
		t.Fatal(err)
	}
	write(t, late)
	c.await(t, "a write after it")
}

func TestWhatCannotBeWatched(t *testing.T) {
	w := newWatcher(t)
	if id, err := w.Once(filepath.Join(t.TempDir(), "none"), func() {}); err == nil || id != None {
		t.Errorf("%d, %v", id, err)
	}
	w.Close()
	if id, err := w.Each(newFile(t).Name(), func() {}); err == nil || id != None {
		t.Errorf("closed: %d, %v", id, err)
	}
}

// A watch for one write that is set again while the kernel has still to take the last one away tells of the next write, too.
func TestSetAgainAtOnce(t *testing.T) {
	w, f, c := newWatcher(t), newFile(t), make(told, 100)
	const rounds = 50_000
	var seen atomic.Int64
	go func() { // as a launcher does: it writes, and goes on when it likes
		for size := range int64(rounds) {
			for seen.Load() < size && !t.Failed() {
				runtime.Gosched()
			}
			_, _ = f.WriteString("x")
		}
	}()
	for seen.Load() < rounds {
		if _, err := w.Once(f.Name(), c.tell); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		if seen.Store(info.Size()); info.Size() < rounds {
			c.await(t, fmt.Sprintf("a write after %d", info.Size()))
		}
	}
}

func TestTheFileGoes(t *testing.T) {
	w, f, c := newWatcher(t), newFile(t), make(told, 1)
	if _, err := w.Once(f.Name(), c.tell); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Close(), os.Remove(f.Name())); err != nil {
		t.Fatal(err)
	}
	c.await(t, "that the file went")
	if len(w.watches) != 0 {
		t.Errorf("%d watches stay", len(w.watches))
	}
}

// A link at a path that root in a container may write to leads to no other container's file, whose
// watch would be lost.
func TestNoLinkIsFollowed(t *testing.T) {
	w, other := newWatcher(t), newFile(t)
	heard := make(told, 1)
	if _, err := w.Once(other.Name(), heard.tell); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(other.Name(), link); err != nil {
		t.Fatal(err)
	}
	id, err := w.Once(link, func() { t.Error("told of the file that a link leads to") })
	if err != nil {
		t.Fatal(err)
	}
	write(t, other)
	heard.await(t, "of a write to the file, which a link was made to")
	w.Forget(id) // before its end, which is told too
}
