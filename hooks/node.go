package hooks

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"github.com/cri-pouch/cri-pouch/internal/dirwatch"
)

// nodeFilesMax bounds the files of all folders together.
const nodeFilesMax = 256

// NodeOptions are what OpenNode needs.
type NodeOptions struct {
	// Dirs are the folders. A file of a later one takes the place of a file of the same name in an earlier one. They need
	// not exist.
	Dirs []string
	// DefaultTimeout is for hooks whose file gives none, MaxTimeout for those whose file gives more. Whole seconds.
	DefaultTimeout, MaxTimeout time.Duration
	Log                        *logrus.Entry
	Metrics                    prometheus.Registerer // nil: nothing is counted
}

// Node holds the node's hooks as their folders have them. It is safe for concurrent use.
type Node struct {
	o     NodeOptions
	watch *dirwatch.Watch
	count *prometheus.GaugeVec

	mu    sync.Mutex
	files []NodeFile // in the order in which hooks run
	said  map[string]string
}

// OpenNode reads the folders and follows them until Close.
func OpenNode(o NodeOptions) *Node {
	n := &Node{o: o, said: map[string]string{}, count: prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "cri_pouch_node_hook_files", Help: "Files that declare hooks of the node, by whether they are used or invalid.",
	}, []string{"state"})}
	if o.Metrics != nil {
		o.Metrics.MustRegister(n.count)
	}
	n.watch = dirwatch.Open("node's hooks", o.Dirs, o.Log, n.load)
	return n
}

// Close ends the watch.
func (n *Node) Close() { n.watch.Close() }

// List gives the files in the order in which their hooks run, those that are not used too.
func (n *Node) List() []NodeFile {
	n.mu.Lock()
	files := slices.Clone(n.files)
	n.mu.Unlock()
	n.checkPrograms(files)
	return files
}

// Select gives the hooks that concern a container, in their order.
func (n *Node) Select(s NodeSubject) NodeSelection {
	var chosen NodeSelection
	for _, f := range n.List() {
		if f.Err == nil && f.When.matches(s) {
			chosen.add(f)
		}
	}
	return chosen
}

// load reads the folders anew and tells what is wrong.
func (n *Node) load() {
	files := readNodeDirs(n.o.Dirs)
	for i := range files {
		if files[i].Err == nil {
			n.bound(&files[i])
		}
	}
	n.mu.Lock()
	n.files = files
	n.mu.Unlock()
	n.List()
}

// bound settles the hook's deadline, in whole seconds as the OCI specification has it.
func (n *Node) bound(f *NodeFile) {
	seconds := int(n.o.DefaultTimeout / time.Second)
	if f.Hook.Timeout != nil {
		seconds = *f.Hook.Timeout
	}
	seconds = max(1, min(seconds, int(n.o.MaxTimeout/time.Second)))
	f.Hook.Timeout = &seconds
}

// checkPrograms looks after the hooks' programs, which come and go without a change of the folders, and tells of each
// thing that is wrong once.
func (n *Node) checkPrograms(files []NodeFile) {
	wrong := map[string]string{}
	for i := range files {
		f := &files[i]
		if f.Err == nil {
			f.Err = f.checkProgram()
		}
		if f.Err != nil {
			wrong[f.Path] = f.Err.Error()
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for path, why := range wrong {
		if n.said[path] != why {
			n.o.Log.WithField("file", path).Warnf("this file of hooks is not used: %s", why)
		}
	}
	for path := range n.said {
		if _, still := wrong[path]; !still {
			n.o.Log.WithField("file", path).Info("the file of hooks that was not used is corrected or gone")
		}
	}
	n.said = wrong
	n.count.WithLabelValues("used").Set(float64(len(files) - len(wrong)))
	n.count.WithLabelValues("invalid").Set(float64(len(wrong)))
}

// readNodeDirs reads all files, a later folder's instead of an earlier one's of the same name, and orders them by their
// names in lower case.
func readNodeDirs(dirs []string) []NodeFile {
	byName := map[string]NodeFile{}
	var broken []NodeFile
	for _, dir := range dirs {
		names, err := nodeNames(dir)
		if err != nil {
			broken = append(broken, NodeFile{Path: dir, Err: err})
			continue
		}
		for _, name := range names {
			path := filepath.Join(dir, name)
			if _, known := byName[name]; !known && len(byName) >= nodeFilesMax {
				broken = append(broken, NodeFile{Path: path, Err: fmt.Errorf("there are more than %d files, this is one too many", nodeFilesMax)})
				break
			}
			byName[name] = readNodeFile(path)
		}
	}
	files := make([]NodeFile, 0, len(byName)+len(broken))
	for _, f := range byName {
		files = append(files, f)
	}
	slices.SortFunc(files, func(a, b NodeFile) int {
		return strings.Compare(strings.ToLower(a.Name())+"\x00"+a.Name(), strings.ToLower(b.Name())+"\x00"+b.Name())
	})
	return append(files, broken...)
}

// nodeNames lists the files of a folder that nobody but root can have put there. A folder that is not there has none.
func nodeNames(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, withoutPath(err)
	}
	defer d.Close()
	info, err := d.Stat()
	if err != nil {
		return nil, withoutPath(err)
	}
	if !info.IsDir() {
		return nil, errors.New("it is no folder")
	}
	if err := trusted(info); err != nil {
		return nil, err
	}
	if err := trustedWay(dir); err != nil {
		return nil, err
	}
	all, err := d.Readdirnames(-1)
	if err != nil {
		return nil, withoutPath(err)
	}
	names := slices.DeleteFunc(all, func(n string) bool { return filepath.Ext(n) != nodeExtension || strings.HasPrefix(n, ".") })
	slices.Sort(names)
	return names, nil
}
