package hooks

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/sirupsen/logrus"
)

// nodeQuiet is how long the folders must be quiet before they are read, so that a file that is being written is read whole.
const nodeQuiet = 50 * time.Millisecond

// nodeWatch calls load at the start and after each change of the folders, from one routine.
type nodeWatch struct {
	dirs   []string
	log    *logrus.Entry
	notify *fsnotify.Watcher
	load   func()
	done   chan struct{}
}

func watchNode(dirs []string, log *logrus.Entry, load func()) (*nodeWatch, error) {
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch the folders of hooks (see fs.inotify.max_user_instances): %w", err)
	}
	w := &nodeWatch{log: log, notify: notify, load: load, done: make(chan struct{})}
	for _, dir := range dirs {
		w.dirs = append(w.dirs, filepath.Clean(dir))
	}
	w.arm()
	load()
	go w.run()
	return w, nil
}

func (w *nodeWatch) close() error {
	err := w.notify.Close()
	<-w.done
	return err
}

func (w *nodeWatch) run() {
	defer close(w.done)
	quiet := time.NewTimer(0)
	<-quiet.C
	for {
		select {
		case e, ok := <-w.notify.Events:
			if !ok {
				return
			}
			if w.concerns(e) {
				quiet.Reset(nodeQuiet)
			}
		case err, ok := <-w.notify.Errors:
			if !ok {
				return
			}
			w.log.WithError(err).Warn("the watch of the folders of hooks lost events, reading them again")
			quiet.Reset(nodeQuiet)
		case <-quiet.C:
			w.arm()
			w.load()
		}
	}
}

// concerns leaves out what happens beside the folders and their ancestors. A change of attributes counts in the folders
// alone: who owns a file and who can write to it decides whether it is used.
func (w *nodeWatch) concerns(e fsnotify.Event) bool {
	return slices.ContainsFunc(w.dirs, func(dir string) bool {
		if filepath.Dir(e.Name) == dir || e.Name == dir {
			return true
		}
		return e.Op != fsnotify.Chmod && strings.HasPrefix(dir+"/", strings.TrimSuffix(e.Name, "/")+"/")
	})
}

// arm watches the folders and all that lead to them, as far as they exist: each may be made, renamed or replaced. Watches
// are made anew, for the same path may be another folder by now.
func (w *nodeWatch) arm() {
	armed := map[string]bool{}
	for _, dir := range w.dirs {
		for ; !armed[dir]; dir = filepath.Dir(dir) {
			armed[dir] = true
			_ = w.notify.Remove(dir)
			if err := w.notify.Add(dir); err != nil && dir == "/" {
				w.log.WithError(err).Error("cannot watch for files of hooks (see fs.inotify.max_user_watches)")
			}
		}
	}
}
