// Package dirwatch follows folders of configuration files, which need not exist yet.
package dirwatch

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/crash"
	"github.com/cri-pouch/cri-pouch/internal/exhaustion"
	"github.com/cri-pouch/cri-pouch/internal/inotify"
)

const (
	// quiet is how long the folders must be quiet before they are read, so that a file that is being written is read whole.
	quiet = 50 * time.Millisecond
	// lookPause is the time between two readings of folders that cannot be watched, for want of an inotify instance or of
	// watches: root in a container may have taken them all.
	lookPause = 2 * time.Second
)

// changes are all that may change what the folders say.
const changes = unix.IN_CREATE | unix.IN_DELETE | unix.IN_DELETE_SELF | unix.IN_MODIFY | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_MOVE_SELF | unix.IN_ATTRIB

// Watch follows folders until Close.
type Watch struct {
	what   string
	dirs   []string
	log    *logrus.Entry
	load   func()
	events chan struct{} // something of concern has happened
	closed chan struct{}
	done   sync.WaitGroup

	// notify, nil where there is none, and short are of the routine that loads.
	notify *inotify.Instance
	short  bool // not all is watched, for want of something

	mu      sync.Mutex
	watched map[int32]string // folder by watch
}

// Open calls load at once, and from one routine after each change of the folders. what names in errors and in the log
// what the folders hold, as in "CNI configuration".
func Open(what string, dirs []string, log *logrus.Entry, load func()) *Watch {
	w := &Watch{what: what, log: log, load: load, events: make(chan struct{}, 1), closed: make(chan struct{}), watched: map[int32]string{}}
	for _, dir := range dirs {
		w.dirs = append(w.dirs, filepath.Clean(dir))
	}
	w.arm()
	load()
	w.done.Go(crash.Guard(log, "follow the "+what, w.run))
	return w
}

// Close returns when load will not be called any more.
func (w *Watch) Close() {
	close(w.closed)
	w.done.Wait()
}

func (w *Watch) run() {
	defer func() {
		if w.notify != nil {
			_ = w.notify.Close()
		}
	}()
	timer := time.NewTimer(0)
	<-timer.C
	for {
		var look <-chan time.Time
		if w.short {
			look = time.After(lookPause)
		}
		select {
		case <-w.closed:
			return
		case <-w.events:
			timer.Reset(quiet)
			continue
		case <-timer.C:
		case <-look:
		}
		w.arm()
		crash.Run(w.log, "read the "+w.what, w.load)
	}
}

// read passes on that something of concern has happened, until the instance is closed.
func (w *Watch) read(i *inotify.Instance) {
	for {
		events, err := i.Read()
		if err != nil {
			if !errors.Is(err, os.ErrClosed) {
				w.log.WithError(err).Errorf("the watch for the %s has ended", w.what)
			}
			return
		}
		if slices.ContainsFunc(events, w.concerns) {
			select {
			case w.events <- struct{}{}:
			default:
			}
		}
	}
}

// concerns leaves out what happens beside the folders and their ancestors. A change of attributes counts in the folders
// alone: who owns a file and who can write to it may decide whether it is used. Events that the kernel had no room for may
// have been anything.
func (w *Watch) concerns(e inotify.Event) bool {
	if e.Mask&unix.IN_Q_OVERFLOW != 0 {
		return true
	}
	w.mu.Lock()
	at, ok := w.watched[e.Watch]
	w.mu.Unlock()
	if !ok || e.Mask&changes == 0 {
		return false
	}
	name := at
	if e.Name != "" {
		name = filepath.Join(at, e.Name)
	}
	return slices.ContainsFunc(w.dirs, func(dir string) bool {
		if filepath.Dir(name) == dir || name == dir {
			return true
		}
		return e.Mask&unix.IN_ATTRIB == 0 && strings.HasPrefix(dir+"/", strings.TrimSuffix(name, "/")+"/")
	})
}

// arm watches the folders and all that lead to them, as far as they exist: each may be made, renamed or replaced. Watches
// are made anew, for the same path may be another folder by now.
func (w *Watch) arm() {
	was := w.short
	w.short = false
	if err := w.open(); err != nil {
		w.fail(err, was)
		return
	}
	w.mu.Lock() // an event of a watch comes only when it is known whose
	defer w.mu.Unlock()
	for wd := range w.watched {
		w.notify.Remove(wd)
	}
	clear(w.watched)
	armed := map[string]bool{}
	for _, dir := range w.dirs {
		for ; !armed[dir]; dir = filepath.Dir(dir) {
			armed[dir] = true
			wd, err := w.notify.Add(dir, changes)
			if err == nil {
				w.watched[wd] = dir
			} else if exhaustion.Is(err) || dir == "/" {
				w.fail(err, was)
			}
		}
	}
}

// open makes the instance, unless it is there.
func (w *Watch) open() error {
	if w.notify != nil {
		return nil
	}
	i, err := inotify.Open()
	if err != nil {
		return err
	}
	w.notify = i
	crash.Go(w.log, "watch for the "+w.what, func() { w.read(i) })
	return nil
}

// fail notes that not all is watched, and says so once.
func (w *Watch) fail(err error, said bool) {
	if !said && !w.short {
		w.log.WithError(err).Errorf("cannot watch for the %s, looking every %s", w.what, lookPause)
	}
	w.short = true
}
