package snapshot

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/semaphore"

	"github.com/cri-pouch/cri-pouch/engine"
	"github.com/cri-pouch/cri-pouch/internal/crash"
	"github.com/cri-pouch/cri-pouch/internal/failpoint"
)

// layer is one layer on its way from the registry to a committed snapshot.
type layer struct {
	n       int
	desc    ocispec.Descriptor
	diff    digest.Digest
	chain   string
	parent  string
	key     string // of the snapshot that it is unpacked into
	upper   string // folder of that snapshot
	tree    tree   // what the unpacking learnt
	present bool   // somebody else has committed it meanwhile

	free    func()        // ends the lock on chain
	done    chan struct{} // closed when err and the above are set
	err     error
	written atomic.Bool // all files are there
	synced  bool
}

// unpackLayers makes the snapshots of all layers of p. Layers are fetched and unpacked side by side, each into a
// snapshot of its own without a parent, and committed in order; what a tar leaves to its parents (folders that it only
// implies) is then taken over from them. Each layer is on disk before its snapshot is committed.
func (s *Store) unpackLayers(ctx context.Context, p *plan, f remotes.Fetcher, pr *progress) error {
	first, err := s.firstMissing(ctx, p)
	if err != nil {
		return err
	}
	pr.layers.Store(int64(len(p.layers)))
	pr.unpacked.Store(int64(first))
	var todo []*layer
	for i := first; i < len(p.layers); i++ {
		l := &layer{n: i, desc: p.layers[i], diff: p.image.RootFS.DiffIDs[i], chain: p.chains[i].String(), done: make(chan struct{})}
		if i > 0 {
			l.parent = p.chains[i-1].String()
		}
		todo = append(todo, l)
		pr.total.Add(l.desc.Size)
	}
	pr.report()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	started := make(chan int, 1) // how many goroutines there are
	crash.Go(s.opts.Log, "start with the layers", func() {
		n := 0
		defer func() { started <- n }()
		n = s.startLayers(ctx, todo, f, pr)
	})
	err = s.commitLayers(ctx, todo, pr)
	cancel(err)
	n := <-started
	for _, l := range todo[:n] {
		<-l.done
		err = errors.Join(err, s.abandon(ctx, l, isDiskFull(err)))
	}
	return err
}

// firstMissing gives the number of layers that are there already, held by the lease of ctx.
func (s *Store) firstMissing(ctx context.Context, p *plan) (int, error) {
	for i := len(p.chains) - 1; i >= 0; i-- {
		ok, err := s.haveChain(ctx, p.chains[i].String())
		if err != nil {
			return 0, err
		}
		if ok {
			return i + 1, nil
		}
	}
	return 0, nil
}

func (s *Store) haveChain(ctx context.Context, chain string) (bool, error) {
	return s.lease(ctx, leases.Resource{ID: chain, Type: "snapshots/" + engine.Snapshotter}, func() error {
		_, err := s.eng.Snapshots.Stat(ctx, chain)
		return err
	})
}

// startLayers begins with the layers in order, as many at once as may be fetched, and gives the number begun.
func (s *Store) startLayers(ctx context.Context, todo []*layer, f remotes.Fetcher, pr *progress) int {
	slots := semaphore.NewWeighted(int64(s.opts.MaxConcurrentDownloads))
	for i, l := range todo {
		if slots.Acquire(ctx, 1) != nil {
			return i
		}
		crash.Go(s.opts.Log, "prepare a layer", func() {
			defer close(l.done)
			l.err = s.prepareLayer(ctx, l, f, pr, func() { slots.Release(1) })
		})
	}
	return len(todo)
}

// prepareLayer fetches a layer, calls fetched, and unpacks it.
func (s *Store) prepareLayer(ctx context.Context, l *layer, f remotes.Fetcher, pr *progress, fetched func()) (err error) {
	release := fetched
	defer func() {
		if release != nil {
			release()
		}
	}()
	// A hostile layer may find a bug; it must not end the daemon.
	defer crash.Catch(s.opts.Log, "unpack layer "+l.desc.Digest.String(), &err)
	if l.free, err = s.chains.lock(ctx, l.chain); err != nil {
		return err
	}
	if l.present, err = s.haveChain(ctx, l.chain); err != nil || l.present {
		return err
	}
	if err := s.fetchLayer(ctx, f, l.desc, pr); err != nil {
		return err
	}
	release()
	release = nil
	if err := s.unpack.Acquire(ctx, 1); err != nil {
		return context.Cause(ctx)
	}
	defer s.unpack.Release(1)
	l.key = "extract-" + randomHex() + "-" + l.chain
	mounts, err := s.eng.Snapshots.Prepare(ctx, l.key, "")
	if err != nil {
		l.key = ""
		return fmt.Errorf("prepare snapshot for layer %s: %w", l.desc.Digest, err)
	}
	if len(mounts) != 1 || mounts[0].Type != "bind" {
		return fmt.Errorf("prepare snapshot for layer %s: unexpected mounts %v", l.desc.Digest, mounts)
	}
	l.upper = mounts[0].Source
	l.tree, err = s.extract(ctx, l)
	if err != nil {
		return err
	}
	l.written.Store(true)
	failpoint.Hit("pull.extracted")
	return nil
}

// extract writes the files of a layer into its folder and checks that they are those that the image speaks of.
func (s *Store) extract(ctx context.Context, l *layer) (tree, error) {
	ra, err := s.eng.Content.ReaderAt(ctx, l.desc)
	if err != nil {
		return tree{}, fmt.Errorf("read layer %s: %w", l.desc.Digest, err)
	}
	defer ra.Close()
	t, sum, err := unpackLayer(ctx, ra, l.upper, l.parent != "", l.diff.Algorithm())
	if err != nil {
		return tree{}, fmt.Errorf("unpack layer %s: %w", l.desc.Digest, err)
	}
	if sum != l.diff {
		return tree{}, imageError(errdefs.ErrDataLoss, "layer %s unpacks to %s, the image says %s", l.desc.Digest, sum, l.diff)
	}
	return t, nil
}

// commitLayers commits the layers in order, each as soon as it and its parent are ready.
func (s *Store) commitLayers(ctx context.Context, todo []*layer, pr *progress) error {
	if len(todo) == 0 {
		return nil
	}
	below, err := s.lowerDirs(ctx, todo[0].parent)
	if err != nil {
		return err
	}
	for _, l := range todo {
		select {
		case <-l.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if l.err != nil {
			return l.err
		}
		if !l.present {
			if err := s.commitLayer(ctx, l, todo, below); err != nil {
				return fmt.Errorf("commit layer %s: %w", l.desc.Digest, err)
			}
		}
		dir, _, err := s.eng.UpperDir(ctx, l.chain)
		if err != nil {
			return err
		}
		below = append([]string{dir}, below...)
		l.free()
		l.free = nil
		pr.unpacked.Add(1)
		pr.report()
	}
	return nil
}

func (s *Store) commitLayer(ctx context.Context, l *layer, todo []*layer, below []string) error {
	if l.parent != "" {
		changed, err := inherit(l.upper, l.tree, below)
		if err != nil {
			return err
		}
		l.synced = l.synced && !changed
	}
	if !l.synced {
		if err := syncLayers(l, todo); err != nil {
			return err
		}
	}
	ctx = engine.WithUsage(ctx, l.tree.usage)
	var opts []snapshots.Opt
	if l.parent != "" {
		opts = append(opts, snapshots.WithParent(l.parent))
	}
	err := s.eng.Snapshots.Commit(ctx, l.chain, l.key, opts...)
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return err
	}
	if err == nil {
		l.key = "" // it is the committed snapshot now
	}
	failpoint.Hit("pull.committed")
	return nil
}

// syncLayers writes the filesystem of l's folder out, and notes which other layers were complete by then: one sync
// serves them too.
func syncLayers(l *layer, todo []*layer) error {
	var covered []*layer
	for _, o := range todo {
		if o.written.Load() {
			covered = append(covered, o)
		}
	}
	if err := syncFilesystem(l.upper); err != nil {
		return err
	}
	for _, o := range covered {
		o.synced = true
	}
	return nil
}

// abandon takes away what is left of a layer that was not committed. On a full disk its files go first: to note that the
// snapshot is removed needs space.
func (s *Store) abandon(ctx context.Context, l *layer, full bool) error {
	if l.free != nil {
		defer l.free()
	}
	if l.key == "" {
		return nil
	}
	if full && l.upper != "" && !l.written.Load() {
		entries, _ := os.ReadDir(l.upper) // what stays goes with the snapshot
		for _, e := range entries {
			_ = os.RemoveAll(filepath.Join(l.upper, e.Name()))
		}
	}
	err := s.eng.Snapshots.Remove(context.WithoutCancel(ctx), l.key)
	s.eng.CollectSoon()
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove unfinished snapshot %s: %w", l.key, err)
	}
	return nil
}

// randomHex gives 16 digits.
func randomHex() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}
