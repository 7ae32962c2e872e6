package network

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"time"

	"github.com/containerd/errdefs"
	"github.com/sirupsen/logrus"
	"golang.org/x/sync/semaphore"
)

// Options say where a Manager keeps its things. Folders are absolute paths.
type Options struct {
	StateDir    string   // on tmpfs, as /run/cri-pouch: pins in ns/, files in sandboxes/
	CNIConfDir  string   // watched; it may appear, vanish and be replaced at any time
	CNIBinDirs  []string // the first that has a plugin wins
	CNICacheDir string   // on disk: what was attached and with which configuration, which DEL needs
	EtcDir      string   // the node's hosts, hostname and resolv.conf; default /etc
	// CNITimeout bounds one ADD, DEL or GC of a network with all its plugins; default 60 s.
	CNITimeout time.Duration
	// Parallel bounds how many ADDs, and how many DELs, run at once; default 4 for each CPU and at least 8.
	Parallel int
	Log      *logrus.Entry
}

// Manager makes, keeps and removes what pods have of the network. It holds no state that cannot be read back from
// StateDir and CNICacheDir: a new one goes on where another was killed. It is safe for concurrent use.
type Manager struct {
	o      Options
	cni    *cniRunner
	conf   *confWatch
	status statusProbe
	locks  keyedLock // per sandbox: what concerns one pod is done one after the other
}

// New prepares the folders and starts to watch the CNI configuration. A configuration that is missing or broken is no
// error here: Ready tells of it. Close ends the watch.
func New(ctx context.Context, o Options) (*Manager, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	for dir, mode := range map[string]fs.FileMode{o.nsDir(): 0o711, o.sandboxesDir(): 0o711, o.CNICacheDir: 0o700} {
		if err := os.MkdirAll(dir, mode); err != nil {
			return nil, fmt.Errorf("make folder of the network state: %w", err)
		}
	}
	if err := shareNSDir(o.nsDir()); err != nil {
		return nil, err
	}
	return &Manager{o: o, conf: watchConf(o.CNIConfDir, o.CNIBinDirs, o.Log), cni: newCNIRunner(o)}, nil
}

func (o *Options) complete() error {
	paths := append([]string{o.StateDir, o.CNIConfDir, o.CNICacheDir}, o.CNIBinDirs...)
	for _, p := range paths {
		if !filepath.IsAbs(p) {
			return fmt.Errorf("network folder %q must be an absolute path: %w", p, errdefs.ErrInvalidArgument)
		}
	}
	if len(o.CNIBinDirs) == 0 {
		return fmt.Errorf("no folder of CNI plugins is given: %w", errdefs.ErrInvalidArgument)
	}
	if o.EtcDir == "" {
		o.EtcDir = "/etc"
	}
	if o.CNITimeout <= 0 {
		o.CNITimeout = time.Minute
	}
	if o.Parallel <= 0 {
		o.Parallel = max(8, 4*runtime.NumCPU())
	}
	if o.Log == nil {
		o.Log = silentLog()
	}
	return nil
}

func silentLog() *logrus.Entry {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return logrus.NewEntry(log)
}

func (o Options) nsDir() string        { return filepath.Join(o.StateDir, "ns") }
func (o Options) sandboxesDir() string { return filepath.Join(o.StateDir, "sandboxes") }

// Close ends the watch. Pods keep what they have; the mount that holds the pins goes only when there is none.
func (m *Manager) Close() error {
	m.conf.close()
	return unshareNSDir(m.o.nsDir())
}

// sandboxIDs are names of folders and CNI container IDs (CNI spec, section "Parameters").
var sandboxIDs = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$`)

func checkID(id string) error {
	if !sandboxIDs.MatchString(id) {
		return fmt.Errorf("sandbox ID %.140q must be 1 to 128 letters, digits, '_', '.' or '-': %w", id, errdefs.ErrInvalidArgument)
	}
	return nil
}

// limits are the semaphores of ADD and DEL; DEL has its own, so that hanging ADDs do not keep addresses from being
// given back.
type limits struct{ add, del *semaphore.Weighted }
