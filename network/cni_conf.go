package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	gocni "github.com/containerd/go-cni"
	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/fsnotify/fsnotify"
	"github.com/sirupsen/logrus"
)

// confQuiet is how long the folder must be quiet before it is read, so that a file that is being written is read whole.
const confQuiet = 50 * time.Millisecond

// confWatch holds the configuration that is in force. It follows the folder by inotify; the folder need not exist.
type confWatch struct {
	dir     string
	binDirs []string
	log     *logrus.Entry
	notify  *fsnotify.Watcher
	done    chan struct{}

	mu      sync.Mutex
	list    *libcni.NetworkConfigList
	err     error
	changed chan struct{} // closed at the next reading
}

func watchConf(dir string, binDirs []string, log *logrus.Entry) (*confWatch, error) {
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch CNI configuration folder %s (see fs.inotify.max_user_instances): %w", dir, err)
	}
	w := &confWatch{dir: filepath.Clean(dir), binDirs: binDirs, log: log, notify: notify, done: make(chan struct{}), changed: make(chan struct{})}
	w.arm()
	w.load()
	go w.run()
	return w, nil
}

func (w *confWatch) close() error {
	err := w.notify.Close()
	<-w.done
	return err
}

// current gives the configuration to be used now. It looks whether the plugins are there, since they may come later than
// the configuration and from elsewhere.
func (w *confWatch) current() (*libcni.NetworkConfigList, error) {
	w.mu.Lock()
	list, err := w.list, w.err
	w.mu.Unlock()
	if err != nil {
		return nil, err
	}
	for _, p := range list.Plugins {
		if _, err := invoke.FindInPath(p.Network.Type, w.binDirs); err != nil {
			return nil, fmt.Errorf("CNI network %q of %s needs plugin %q, which is not in %s: install it there: %w",
				list.Name, w.dir, p.Network.Type, strings.Join(w.binDirs, ", "), errdefs.ErrUnavailable)
		}
	}
	return list, nil
}

func (w *confWatch) run() {
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
				quiet.Reset(confQuiet)
			}
		case err, ok := <-w.notify.Errors:
			if !ok {
				return
			}
			w.log.WithError(err).Warn("the watch of the CNI configuration lost events, reading it again")
			quiet.Reset(confQuiet)
		case <-quiet.C:
			w.arm()
			w.load()
		}
	}
}

// concerns leaves out what happens beside the folder and its ancestors, and changes of attributes.
func (w *confWatch) concerns(e fsnotify.Event) bool {
	if e.Op == fsnotify.Chmod {
		return false
	}
	return filepath.Dir(e.Name) == w.dir || strings.HasPrefix(w.dir+"/", strings.TrimSuffix(e.Name, "/")+"/")
}

// arm watches the folder and all that lead to it, as far as they exist: each may be made, renamed or replaced. Watches
// are made anew, for the same path may be another folder by now.
func (w *confWatch) arm() {
	for dir := w.dir; ; dir = filepath.Dir(dir) {
		_ = w.notify.Remove(dir)
		err := w.notify.Add(dir)
		if err != nil && dir == "/" {
			w.log.WithError(err).Error("cannot watch for the CNI configuration (see fs.inotify.max_user_watches)")
		}
		if dir == "/" {
			return
		}
	}
}

// load reads the folder. What stands there counts, also when it is broken: a node that works until its next restart
// only would hide the error.
func (w *confWatch) load() {
	list, err := readConf(w.dir, w.binDirs)
	w.mu.Lock()
	before, beforeErr := w.list, w.err
	w.list, w.err = list, err
	close(w.changed)
	w.changed = make(chan struct{})
	w.mu.Unlock()
	switch {
	case err != nil && (beforeErr == nil || beforeErr.Error() != err.Error()):
		w.log.WithError(err).Warn("pods cannot be connected")
	case err == nil && (before == nil || string(before.Bytes) != string(list.Bytes)):
		w.log.WithField("network", list.Name).Info("CNI configuration loaded")
	}
}

// next gives a channel that is closed at the next reading.
func (w *confWatch) next() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed
}

// readConf lets go-cni find, read and check the default configuration: the first file of the folder.
func readConf(dir string, binDirs []string) (*libcni.NetworkConfigList, error) {
	// go-cni's errors do not tell an empty folder from a broken file.
	if files, err := libcni.ConfFiles(dir, []string{".conf", ".conflist", ".json"}); err == nil && len(files) == 0 {
		return nil, fmt.Errorf("no CNI configuration is in %s: put one there (*.conflist), it is picked up at once: %w", dir, errdefs.ErrUnavailable)
	}
	cni, err := gocni.New(gocni.WithPluginConfDir(dir), gocni.WithPluginDir(binDirs), gocni.WithPluginMaxConfNum(1))
	if err == nil {
		err = cni.Load(gocni.WithDefaultConf)
	}
	if err == nil && len(cni.GetConfig().Networks) == 0 {
		err = errors.New("it vanished while it was read")
	}
	if err != nil {
		return nil, fmt.Errorf("the CNI configuration in %s is broken, correct it: %w: %w", dir, err, errdefs.ErrUnavailable)
	}
	list, err := whole(cni.GetConfig().Networks[0].Config)
	if err != nil {
		return nil, fmt.Errorf("the CNI configuration in %s is broken, correct it: %w: %w", dir, err, errdefs.ErrUnavailable)
	}
	return list, nil
}

// whole puts plugins that stand in files of their own (CNI spec 1.1) into the list, so that its bytes alone are enough
// for a DEL later on.
func whole(c *gocni.NetworkConfList) (*libcni.NetworkConfigList, error) {
	var raw map[string]any
	if err := json.Unmarshal([]byte(c.Source), &raw); err != nil {
		return nil, err
	}
	var plugins []json.RawMessage
	for _, p := range c.Plugins {
		plugins = append(plugins, json.RawMessage(p.Source))
	}
	raw["plugins"], raw["loadOnlyInlinedPlugins"] = plugins, true
	b, err := json.Marshal(raw)
	if err != nil {
		return nil, err
	}
	return libcni.NetworkConfFromBytes(b)
}
