// Package filewatch tells of writes to single files, also of files that a container's root may write to as often as it likes.
package filewatch

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/crash"
	"github.com/cri-pouch/cri-pouch/internal/exhaustion"
	"github.com/cri-pouch/cri-pouch/internal/inotify"
)

// Watcher tells of writes to any number of files through one inotify instance: a user has 128 of them (inotify(7)). Root in a
// container may have taken them all, or all watches: then files are looked at once a second.
type Watcher struct {
	log    *logrus.Entry
	closed chan struct{}

	mu      sync.Mutex
	inotify *inotify.Instance // nil: there is none, or it is closed
	watches map[int32]watch
	looked  map[ID]*looked
	next    ID   // of what is looked at; below None
	looking bool // somebody looks
	short   bool // the last file could not be watched
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
func New(log *logrus.Entry) *Watcher {
	w := &Watcher{log: log, closed: make(chan struct{}), watches: map[int32]watch{}, looked: map[ID]*looked{}, next: None - 1}
	w.mu.Lock()
	defer w.mu.Unlock()
	_ = w.open() // or with the first watch for which there is room
	return w
}

// Close ends all watches. It can be repeated.
func (w *Watcher) Close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.isClosed() {
		return
	}
	close(w.closed)
	w.looked = map[ID]*looked{}
	if w.inotify != nil {
		_ = w.inotify.Close()
	}
}

func (w *Watcher) isClosed() bool {
	select {
	case <-w.closed:
		return true
	default:
		return false
	}
}

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

// Look is Each for a file whose changes inotify does not tell of: it is looked at once a second.
func (w *Watcher) Look(path string, changed func()) (ID, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.isClosed() {
		return None, fmt.Errorf("watch %s: %w", path, os.ErrClosed)
	}
	return w.addLooked(path, watch{changed: changed})
}

// add follows no link at path: root in a container may have put one there that leads to the file of
// another container, whose watch would then be replaced.
func (w *Watcher) add(path string, entry watch, mask uint32) (ID, error) {
	w.mu.Lock() // the first event may come before the entry is made
	defer w.mu.Unlock()
	if w.isClosed() {
		return None, fmt.Errorf("watch %s: %w", path, os.ErrClosed)
	}
	wd, err := w.addWatch(path, mask)
	if exhaustion.Is(err) {
		if !w.short {
			w.log.WithError(err).Warn("files are looked at from time to time instead")
		}
		w.short = true
		return w.addLooked(path, entry)
	}
	if err != nil {
		return None, err
	}
	w.short = false
	w.watches[wd] = entry
	return ID(wd), nil
}

// open makes the instance where there is none yet. w.mu is held.
func (w *Watcher) open() error {
	if w.inotify != nil {
		return nil
	}
	i, err := inotify.Open()
	if err != nil {
		return err
	}
	w.inotify = i
	crash.Go(w.log, "watch files", func() { w.read(i) })
	return nil
}

func (w *Watcher) addWatch(path string, mask uint32) (int32, error) {
	if err := w.open(); err != nil {
		return -1, err
	}
	return w.inotify.Add(path, mask|unix.IN_DONT_FOLLOW)
}

// Forget ends a watch; what has ended, and None, it leaves alone.
func (w *Watcher) Forget(id ID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.looked, id)
	if _, ok := w.watches[int32(id)]; ok {
		w.forget(int32(id))
	}
}

func (w *Watcher) forget(wd int32) {
	delete(w.watches, wd)
	w.inotify.Remove(wd)
}

func (w *Watcher) read(i *inotify.Instance) {
	for {
		events, err := i.Read()
		if err != nil {
			if !errors.Is(err, os.ErrClosed) {
				w.log.WithError(err).Error("watching files")
			}
			return
		}
		for _, e := range events {
			for _, changed := range w.concerned(e) {
				crash.Run(w.log, "tell of a write to a file", changed)
			}
		}
	}
}

// concerned gives whom an event is for: all, where the kernel had no room for more events.
func (w *Watcher) concerned(e inotify.Event) (changed []func()) {
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
	entry, ok := w.watches[e.Watch]
	if !ok || e.Mask&(unix.IN_MODIFY|unix.IN_CLOSE_WRITE|unix.IN_IGNORED) == 0 {
		return nil
	}
	if entry.once || e.Mask&unix.IN_IGNORED != 0 {
		delete(w.watches, e.Watch)
	}
	return []func(){entry.changed}
}
