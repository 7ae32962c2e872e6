package snapshot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/cri-pouch/cri-pouch/internal/crash"
	"github.com/cri-pouch/cri-pouch/internal/failpoint"
)

// errAbandoned ends a pull that nobody has waited for any more, for long.
var errAbandoned = errors.New("nobody waits for the pull any more")

// errClosing ends the pulls of a store that is closed.
var errClosing = fmt.Errorf("the daemon is going down, a later pull goes on where this one stops: %w", errdefs.ErrUnavailable)

// pulls are the pulls in progress, and the leases of those that did not finish.
type pulls struct {
	root context.Context

	mu      sync.Mutex
	active  map[string]*pull     // by reference and credentials
	kept    map[string]time.Time // lease ID: since when it waits for a next try; or for its pull's end, which has it locked
	changed chan struct{}        // closed and replaced at each change
	wg      sync.WaitGroup
}

// pull is one pull, which any number of callers wait for.
type pull struct {
	progress progress
	done     chan struct{} // closed when img and err are set
	img      Image
	err      error
	waiting  int
	cancel   context.CancelCauseFunc
	timer    *time.Timer // runs while nobody waits
}

func newPulls() *pulls {
	return &pulls{active: map[string]*pull{}, kept: map[string]time.Time{}, changed: make(chan struct{})}
}

// Pull makes the image present, unpacked and named, and gives it. Equal pulls (same reference, same credentials) join
// each other. A caller that gives up gets ctx's error while the pull goes on for the others, or for a retry; after
// Options.AbandonedPull it is cancelled. Errors have a class of errdefs: ErrInvalidArgument (reference, image),
// ErrNotFound (also: not for this platform), ErrPermissionDenied, ErrUnavailable (the message begins with
// "RegistryUnavailable"), ErrDataLoss (digest), ErrResourceExhausted (disk).
func (s *Store) Pull(ctx context.Context, ref string, auth *Auth) (Image, error) {
	r, err := ParseReference(ref)
	if err != nil {
		return Image{}, err
	}
	p := s.pulls.join(pullKey(r, auth), s.opts.AbandonedPull, func(ctx context.Context, p *pull) {
		p.img, p.err = s.pullNow(s.eng.With(ctx), r, auth, &p.progress)
	})
	p.progress.begin(r.String(), s.pulls.notify)
	select {
	case <-p.done:
		s.pulls.leave(p, 0)
		return p.img, p.err
	case <-ctx.Done():
		s.pulls.leave(p, s.opts.AbandonedPull)
		return Image{}, fmt.Errorf("pull %s: gave up waiting, the pull goes on: %w", r, ctx.Err())
	}
}

// pullKey is what equal pulls have in common. Pulls with other credentials are others: they must be judged by theirs.
func pullKey(r Reference, auth *Auth) string {
	if auth == nil {
		auth = &Auth{}
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%q", []string{auth.Username, auth.Password, auth.IdentityToken, auth.RegistryToken, auth.ServerAddress}))
	return r.String() + " " + hex.EncodeToString(sum[:])
}

// join gives the pull of that key, started by run if there is none.
func (x *pulls) join(key string, limit time.Duration, run func(context.Context, *pull)) *pull {
	x.mu.Lock()
	defer x.mu.Unlock()
	if p := x.active[key]; p != nil {
		p.waiting++
		if p.timer != nil {
			p.timer.Stop()
			p.timer = nil
		}
		return p
	}
	ctx, cancel := context.WithCancelCause(x.root)
	p := &pull{done: make(chan struct{}), waiting: 1, cancel: cancel}
	x.active[key] = p
	x.wg.Add(1)
	crash.Go(nil, "pull an image", func() {
		defer x.wg.Done()
		defer func() {
			x.mu.Lock()
			delete(x.active, key)
			x.mu.Unlock()
			cancel(nil)
			close(p.done)
			x.notify()
		}()
		defer crash.Catch(nil, "pull an image", &p.err) // a daemon must not die of one image
		run(ctx, p)
	})
	return p
}

// leave notes that a caller waits no longer; the last one starts the clock of an unfinished pull.
func (x *pulls) leave(p *pull, limit time.Duration) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if p.waiting--; p.waiting == 0 && limit > 0 {
		p.timer = time.AfterFunc(limit, crash.Guard(nil, "give a pull up", func() { p.cancel(errAbandoned) }))
	}
}

// notify wakes the watchers.
func (x *pulls) notify() {
	x.mu.Lock()
	close(x.changed)
	x.changed = make(chan struct{})
	x.mu.Unlock()
}

func (x *pulls) wait() { x.wg.Wait() }

// pullNow is one pull from its resolution to its name.
func (s *Store) pullNow(ctx context.Context, r Reference, auth *Auth, pr *progress) (Image, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := pr.watch(s.opts.PullProgressTimeout, cancel)
	defer stop()
	res := s.resolver(auth)
	pr.active.Add(1)
	name, desc, err := res.Resolve(ctx, r.String())
	pr.active.Add(-1)
	if err != nil {
		return Image{}, pullError(ctx, r.String(), err)
	}
	failpoint.Hit("pull.resolved")
	names := []string{r.withDigest(desc.Digest)}
	if r.digest == "" {
		names = append(names, r.String())
	}
	if img, ok := s.present(names, desc); ok {
		s.letGo(ctx, pullLease(r), time.Now()) // what a try for something else left, to which the name has led meanwhile
		return img, nil
	}
	f, err := res.Fetcher(ctx, name)
	if err != nil {
		return Image{}, pullError(ctx, r.String(), err)
	}
	return s.pullDescriptor(ctx, r, desc, names, f, pr)
}

// present says whether the image that a registry names now is here under all the names.
func (s *Store) present(names []string, d ocispec.Descriptor) (Image, bool) {
	var img Image
	for _, n := range names {
		got, ok := s.index.has(n, d.Digest)
		if !ok {
			return Image{}, false
		}
		img = got
	}
	return img, true
}

// pullDescriptor fetches, unpacks and names what desc leads to, under a lease that a pull leaves behind for the next try
// if that can go on from there.
func (s *Store) pullDescriptor(ctx context.Context, r Reference, desc ocispec.Descriptor, names []string, f remotes.Fetcher, pr *progress) (Image, error) {
	id := pullLease(r)
	free, err := s.takeLease(ctx, id)
	if err != nil {
		return Image{}, pullError(ctx, r.String(), err)
	}
	defer free()
	img, err := s.fill(leases.WithLease(ctx, id), desc, names, id, f, pr)
	if err != nil {
		err = pullError(ctx, r.String(), err)
		s.keepOrDrop(ctx, id, err)
		return Image{}, err
	}
	return img, nil
}

// fill brings everything that desc leads to into the store. ctx carries the lease, which ends when names hold it all.
func (s *Store) fill(ctx context.Context, desc ocispec.Descriptor, names []string, lease string, f remotes.Fetcher, pr *progress) (Image, error) {
	p, err := readPlan(ctx, desc, func(ctx context.Context, d ocispec.Descriptor) ([]byte, error) {
		return s.fetchDocument(ctx, f, d, pr)
	})
	if err != nil {
		return Image{}, err
	}
	if err := s.bring(ctx, p, f, pr); err != nil {
		return Image{}, err
	}
	failpoint.Hit("pull.unpacked")
	img, err := s.name(ctx, p, names, lease)
	if err != nil {
		return Image{}, err
	}
	failpoint.Hit("pull.named")
	return img, nil
}

// bring unpacks the layers of p and stores its documents, at once: the documents wait for the disk, the layers mostly for
// registry and CPU.
func (s *Store) bring(ctx context.Context, p *plan, f remotes.Fetcher, pr *progress) error {
	both, ctx := errgroup.WithContext(ctx)
	both.Go(crash.GuardError(s.opts.Log, "unpack layers", func() error { return s.unpackLayers(ctx, p, f, pr) }))
	both.Go(crash.GuardError(s.opts.Log, "store documents", func() error { return s.storeDocuments(ctx, p) }))
	return both.Wait()
}
