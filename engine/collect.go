package engine

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/cri-pouch/cri-pouch/internal/crash"
)

// leftoverPrefix begins the keys of snapshots that layers are unpacked into; unpacking cannot be resumed.
const leftoverPrefix = "extract-"

// probeKey is the snapshot that removeLeftovers makes and removes.
const probeKey = "start-probe"

// collector runs garbage collections: some time after each removal and now and then. Each is exclusive against updates
// while it marks and sweeps; readers pass.
type collector struct {
	e       *Engine
	wake    chan struct{}
	quit    chan struct{}
	done    chan struct{}
	started sync.Once
	stopped sync.Once
	running atomic.Bool // started
	sweep   atomic.Bool // folders without a snapshot may be there
	mu      sync.Mutex  // one collection at a time
	// apart keeps collections apart from the transactions of Update, which hold it for reading. A store takes its own lock,
	// then the database's; within a transaction it is the other way round. While a collection waits for the store's lock,
	// whoever comes after it waits too: a transaction, for which the one that holds that lock waits.
	apart sync.RWMutex
}

func newCollector(e *Engine) *collector {
	return &collector{e: e, wake: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{})}
}

// StartCollecting collects once and begins to do so after removals and on a timer. It must not be called before all
// records have been read and recovered: a collection removes what no record, image or lease refers to. Calling it again
// does nothing.
func (e *Engine) StartCollecting(ctx context.Context) error {
	var err error
	e.gc.started.Do(func() {
		err = e.Collect(ctx)
		e.gc.running.Store(true)
		crash.Go(e.opts.Log, "collect garbage", e.gc.run)
	})
	return err
}

// CollectSoon asks for a garbage collection after the current wave of removals. Before StartCollecting it is only noted.
func (e *Engine) CollectSoon() {
	select {
	case e.gc.wake <- struct{}{}:
	default:
	}
}

// Collect collects at once.
func (e *Engine) Collect(ctx context.Context) error { return e.gc.collect(ctx) }

// Reclaim collects before it returns, for who waits for the space; before StartCollecting it is only noted.
func (e *Engine) Reclaim(ctx context.Context) error {
	if !e.gc.running.Load() {
		e.CollectSoon()
		return nil
	}
	return e.gc.collect(ctx)
}

func (c *collector) sweepFolders() {
	c.sweep.Store(true)
	c.e.CollectSoon()
}

func (c *collector) collect(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	removed := &atomic.Bool{}
	if err := c.markAndSweep(context.WithValue(ctx, collectionKey{}, removed)); err != nil {
		return fmt.Errorf("collect garbage of %s: %w", c.e.opts.Root, err)
	}
	if c.sweep.Swap(false) || removed.Load() {
		if err := c.e.backend.Cleanup(ctx); err != nil {
			c.sweep.Store(true)
			return fmt.Errorf("remove folders of removed snapshots: %w", err)
		}
	}
	return nil
}

// markAndSweep removes what nothing refers to. The folders of snapshots, which take longer, are left to Cleanup.
func (c *collector) markAndSweep(ctx context.Context) error {
	c.apart.Lock()
	defer c.apart.Unlock()
	c.e.backend.fresh.begin()
	_, err := c.e.db.GarbageCollect(ctx)
	return err
}

func (c *collector) run() {
	defer close(c.done)
	interval, delay := c.e.opts.CollectInterval, c.e.opts.CollectDelay
	if interval <= 0 {
		interval = defaultCollectInterval
	}
	if delay <= 0 {
		delay = defaultCollectDelay
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-c.quit:
			return
		case <-tick.C:
		case <-c.wake:
			select {
			case <-c.quit:
				return
			case <-time.After(delay):
			}
			select { // asked again meanwhile: that is this collection too
			case <-c.wake:
			default:
			}
		}
		if err := crash.Try(c.e.opts.Log, "collect garbage", func() error { return c.collect(context.Background()) }); err != nil {
			c.e.opts.Log.WithError(err).Warn("garbage collection failed; it is tried again")
		}
	}
}

func (c *collector) stop() {
	c.stopped.Do(func() {
		close(c.quit)
		c.started.Do(func() {}) // it will never start
		if c.running.Load() {
			<-c.done
		}
	})
}

// removeLeftovers drops snapshots of layers whose unpacking was cut off, and makes the first collection look for
// folders and snapshots that no record knows.
func (e *Engine) removeLeftovers(ctx context.Context) error {
	var dead []string
	err := e.Snapshots.Walk(ctx, func(_ context.Context, i snapshots.Info) error {
		if i.Kind == snapshots.KindActive && (strings.HasPrefix(i.Name, leftoverPrefix) || i.Name == probeKey) {
			dead = append(dead, i.Name)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("look for unfinished snapshots: %w", err)
	}
	for _, key := range dead {
		if err := e.Snapshots.Remove(ctx, key); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("remove unfinished snapshot %s: %w", key, err)
		}
	}
	// A collection looks at the snapshotter's own database only if something was removed through the metadata one.
	if _, err := e.Snapshots.Prepare(ctx, probeKey, ""); err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("write to the snapshot store: %w", err)
	}
	if err := e.Snapshots.Remove(ctx, probeKey); err != nil {
		return fmt.Errorf("write to the snapshot store: %w", err)
	}
	e.gc.sweep.Store(true)
	return nil
}
