package filewatch

import (
	"errors"
	"os"
	"testing"

	"github.com/cri-pouch/cri-pouch/integration/faults"
)

// Where the kernel gives no instance, or no more watches, writes are told of all the same.
func TestWithoutAnInstance(t *testing.T) {
	if faults.Again(t, "inotify_init1:error=EMFILE") {
		tellWithoutInotify(t)
	}
}

func TestWithoutWatches(t *testing.T) {
	if faults.Again(t, "inotify_add_watch:error=ENOSPC") {
		tellWithoutInotify(t)
	}
}

// An instance that has no place in the poller is read all the same.
func TestWithoutAPlaceInThePoller(t *testing.T) {
	if !faults.Again(t, "epoll_ctl:error=ENOSPC:when=2+") {
		return
	}
	w, f, c := newWatcher(t), newFile(t), make(told, 100)
	for range 3 {
		if _, err := w.Once(f.Name(), c.tell); err != nil {
			t.Fatal(err)
		}
		write(t, f)
		c.await(t, "a write")
	}
}

func tellWithoutInotify(t *testing.T) {
	w, f, c := newWatcher(t), newFile(t), make(told, 100)
	each := newFile(t)
	id, err := w.Each(each.Name(), c.tell)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		write(t, each)
		c.await(t, "a write to the file that is watched for each")
	}
	w.Forget(id)
	write(t, each)
	if _, err := w.Once(f.Name(), c.tell); err != nil {
		t.Fatal(err)
	}
	write(t, f)
	c.await(t, "a write to the file that is watched for one")
	write(t, f)
	gone := newFile(t)
	if _, err := w.Once(gone.Name(), c.tell); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(gone.Close(), os.Remove(gone.Name())); err != nil {
		t.Fatal(err)
	}
	c.await(t, "that the file went")
	if len(c) != 0 {
		t.Errorf("told of %d writes more", len(c))
	}
	if _, err := w.Once(gone.Name(), c.tell); err == nil {
		t.Error("a file that is not there is watched")
	}
}
