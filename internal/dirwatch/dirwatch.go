// Package dirwatch follows folders of configuration files, which need not exist yet.
package dirwatch

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/sirupsen/logrus"
)

// quiet is how long the folders must be quiet before they are read, so that a file that is being written is read whole.
const quiet = 50 * time.Millisecond

// Watch follows folders until Close.
type Watch struct {
	what   string
	dirs   []string
	log    *logrus.Entry
	notify *fsnotify.Watcher
	load   func()
	done   chan struct{}
}

// Open calls load at once, and from one routine after each change of the folders. what names in errors and in the log
// what the folders hold, as in "CNI configuration".
func Open(what string, dirs []string, log *logrus.Entry, load func()) (*Watch, error) {
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch for the %s (see fs.inotify.max_user_instances): %w", what, err)
	}
	w := &Watch{what: what, log: log, notify: notify, load: load, done: make(chan struct{})}
	for _, dir := range dirs {
		w.dirs = append(w.dirs, filepath.Clean(dir))
	}
	w.arm()
	load()
	go w.run()
	return w, nil
}

// Close returns when load will not be called any more.
func (w *Watch) Close() error {
	err := w.notify.Close()
	<-w.done
	return err
}

func (w *Watch) run() {
	defer close(w.done)
	timer := time.NewTimer(0)
	<-timer.C
	for {
		select {
		case e, ok := <-w.notify.Events:
			if !ok {
				return
			}
			if w.concerns(e) {
				timer.Reset(quiet)
			}
		case err, ok := <-w.notify.Errors:
			if !ok {
				return
			}
			w.log.WithError(err).Warnf("the watch for the %s lost events, reading it again", w.what)
			timer.Reset(quiet)
		case <-timer.C:
			w.arm()
			w.load()
		}
	}
}

// concerns leaves out what happens beside the folders and their ancestors. A change of attributes counts in the folders
// alone: who owns a file and who can write to it may decide whether it is used.
func (w *Watch) concerns(e fsnotify.Event) bool {
	return slices.ContainsFunc(w.dirs, func(dir string) bool {
		if filepath.Dir(e.Name) == dir || e.Name == dir {
			return true
		}
		return e.Op != fsnotify.Chmod && strings.HasPrefix(dir+"/", strings.TrimSuffix(e.Name, "/")+"/")
	})
}

// arm watches the folders and all that lead to them, as far as they exist: each may be made, renamed or replaced. Watches
// are made anew, for the same path may be another folder by now.
func (w *Watch) arm() {
	armed := map[string]bool{}
	for _, dir := range w.dirs {
		for ; !armed[dir]; dir = filepath.Dir(dir) {
			armed[dir] = true
			_ = w.notify.Remove(dir)
			if err := w.notify.Add(dir); err != nil && dir == "/" {
				w.log.WithError(err).Errorf("cannot watch for the %s (see fs.inotify.max_user_watches)", w.what)
			}
		}
	}
}
