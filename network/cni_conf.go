package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	gocni "github.com/containerd/go-cni"
	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/sirupsen/logrus"

	"github.com/cri-pouch/cri-pouch/internal/dirwatch"
)

// confWatch holds the configuration that is in force. It follows the folder by inotify; the folder need not exist.
type confWatch struct {
	dir     string
	binDirs []string
	log     *logrus.Entry
	watch   *dirwatch.Watch

	mu      sync.Mutex
	list    *libcni.NetworkConfigList
	err     error
	changed chan struct{} // closed at the next reading
}

func watchConf(dir string, binDirs []string, log *logrus.Entry) *confWatch {
	w := &confWatch{dir: filepath.Clean(dir), binDirs: binDirs, log: log, changed: make(chan struct{})}
	w.watch = dirwatch.Open("CNI configuration", []string{dir}, log, w.load)
	return w
}

func (w *confWatch) close() { w.watch.Close() }

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
