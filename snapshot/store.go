package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/semaphore"

	"github.com/cri-pouch/cri-pouch/engine"
	"github.com/cri-pouch/cri-pouch/internal/crash"
)

// Defaults of Options.
const (
	defaultRegistryConfigDir = "/etc/cri-pouch/certs.d"
	defaultDownloads         = 4
	defaultUnpacks           = 2
	defaultProgressTimeout   = 5 * time.Minute
	defaultAbandoned         = 10 * time.Minute
	defaultSeedBytes         = 1 << 30
	defaultSeedEntries       = 250_000
)

// Options are what a Store is made of.
type Options struct {
	Engine   *engine.Engine
	StateDir string // tmpfs folder of the daemon; root filesystems are mounted at StateDir/rootfs/ID/fs
	// RegistryConfigDir has one folder per registry host with a hosts.toml; "" means /etc/cri-pouch/certs.d.
	RegistryConfigDir      string
	MaxConcurrentDownloads int // blobs that one pull fetches at once; 0 means 4
	UnpackConcurrency      int // layers that are unpacked at once, over all pulls; 0 means 2
	// PullProgressTimeout ends a pull that gets no byte for so long; 0 means 5 minutes.
	PullProgressTimeout time.Duration
	// AbandonedPull is how long a pull goes on that nobody waits for any more, and how long what a failed or killed one
	// fetched is kept for the next try; 0 means 10 minutes.
	AbandonedPull time.Duration
	// PinnedImages are references that are reported as pinned. Each must be well-formed.
	PinnedImages []string
	// VolumeDir has the volumes that outlive containers; "" means volumes beside the engine's root.
	VolumeDir string
	// VolumeSeedBytes and VolumeSeedEntries bound what the new volumes of one container copy from its image, in all; 0 means
	// 1 GiB and 250,000.
	VolumeSeedBytes   int64
	VolumeSeedEntries int
	Log               *logrus.Entry
}

// Store has the images, the records of sandboxes and, by Rootfs, the root filesystems of one root. All of it is safe
// for concurrent use.
type Store struct {
	opts   Options
	eng    *engine.Engine
	log    *logrus.Entry
	index  *index
	pulls  *pulls
	chains *locker // one unpacking of a layer at a time
	blobs  *locker // one transfer of a blob, and one user of a pull's lease, at a time
	unpack *semaphore.Weighted
	rootfs *Rootfs
	volume *Volumes
	usage  *usageCache
	naming sync.Mutex // names in the database and in the index change together

	quit context.CancelCauseFunc
	bg   sync.WaitGroup
}

// Open reads the images of the engine into memory. The engine must outlive the Store.
func Open(ctx context.Context, o Options) (*Store, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	pinned, err := parsePinned(o.PinnedImages)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(o.StateDir, "rootfs")
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, fmt.Errorf("make folder of root filesystems: %w", err)
	}
	if err := os.Chmod(dir, 0o711); err != nil { // whatever the umask
		return nil, fmt.Errorf("restrict folder of root filesystems: %w", err)
	}
	s := &Store{
		opts: o, eng: o.Engine, log: o.Log, index: newIndex(pinned), pulls: newPulls(), chains: newLocker(), blobs: newLocker(),
		unpack: semaphore.NewWeighted(int64(o.UnpackConcurrency)), usage: newUsageCache(),
	}
	s.rootfs = &Rootfs{eng: o.Engine, dir: dir, mounts: newLocker(), usage: s.usage}
	if s.volume, err = openVolumes(o.VolumeDir, o.VolumeSeedBytes, o.VolumeSeedEntries, o.Log); err != nil {
		return nil, err
	}
	if err := s.loadImages(s.eng.With(ctx)); err != nil {
		return nil, err
	}
	if err := s.adoptLeases(s.eng.With(ctx)); err != nil {
		return nil, err
	}
	bg, cancel := context.WithCancelCause(context.Background())
	s.quit = cancel
	s.pulls.root = bg
	s.bg.Add(1)
	crash.Go(s.opts.Log, "look after the pulls", func() { s.housekeeping(bg) })
	return s, nil
}

// Rootfs gives the root filesystems of containers.
func (s *Store) Rootfs() *Rootfs { return s.rootfs }

// Volumes gives the volumes that outlive containers.
func (s *Store) Volumes() *Volumes { return s.volume }

func (o *Options) complete() error {
	if o.Engine == nil {
		return errors.New("open snapshot store: no engine")
	}
	if !filepath.IsAbs(o.StateDir) {
		return fmt.Errorf("open snapshot store: state folder %q is no absolute path", o.StateDir)
	}
	if o.RegistryConfigDir == "" {
		o.RegistryConfigDir = defaultRegistryConfigDir
	}
	if o.MaxConcurrentDownloads <= 0 {
		o.MaxConcurrentDownloads = defaultDownloads
	}
	if o.UnpackConcurrency <= 0 {
		o.UnpackConcurrency = defaultUnpacks
	}
	if o.PullProgressTimeout <= 0 {
		o.PullProgressTimeout = defaultProgressTimeout
	}
	if o.AbandonedPull <= 0 {
		o.AbandonedPull = defaultAbandoned
	}
	if o.VolumeDir == "" {
		o.VolumeDir = filepath.Join(filepath.Dir(o.Engine.Root()), "volumes")
	}
	if o.VolumeSeedBytes <= 0 {
		o.VolumeSeedBytes = defaultSeedBytes
	}
	if o.VolumeSeedEntries <= 0 {
		o.VolumeSeedEntries = defaultSeedEntries
	}
	if o.Log == nil {
		o.Log = logrus.NewEntry(logrus.StandardLogger())
	}
	return nil
}

// Close cancels the pulls in progress (the next process goes on with them) and waits for their end. Mounts stay.
func (s *Store) Close() error {
	s.quit(errClosing)
	s.pulls.wait()
	s.bg.Wait()
	return nil
}

// housekeeping lets go of what failed pulls fetched, once nobody has tried again for a while.
func (s *Store) housekeeping(ctx context.Context) {
	defer s.bg.Done()
	tick := time.NewTicker(max(s.opts.AbandonedPull/4, 10*time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, id := range s.pulls.stale(time.Now().Add(-s.opts.AbandonedPull)) {
			crash.Run(s.opts.Log, "let an abandoned pull go", func() { s.letGo(s.eng.With(ctx), id, time.Now().Add(-s.opts.AbandonedPull)) })
		}
	}
}
