package snapshot

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cri-pouch/cri-pouch/internal/crash"
)

// reportEvery is the least time between two reports of one pull.
const reportEvery = 100 * time.Millisecond

// progress is how far a pull has come. Its counters are written by many goroutines.
type progress struct {
	once     sync.Once
	ready    atomic.Bool // ref, started and notify are set
	ref      string
	started  time.Time
	notify   func()
	total    atomic.Int64
	done     atomic.Int64
	layers   atomic.Int64
	unpacked atomic.Int64
	active   atomic.Int64 // requests and transfers that wait for the registry
	last     atomic.Int64 // ns since the epoch of the last byte
	reported atomic.Int64 // ns since the epoch
}

func (p *progress) begin(ref string, notify func()) {
	p.once.Do(func() {
		p.ref, p.started, p.notify = ref, time.Now(), notify
		p.ready.Store(true)
		notify()
	})
}

// bytes notes n more bytes that came from the registry.
func (p *progress) bytes(n int) {
	now := time.Now().UnixNano()
	p.last.Store(now)
	p.done.Add(int64(n))
	if then := p.reported.Load(); now-then >= int64(reportEvery) && p.reported.CompareAndSwap(then, now) {
		p.report()
	}
}

// report tells the watchers.
func (p *progress) report() {
	if p.ready.Load() {
		p.notify()
	}
}

func (p *progress) view() PullProgress {
	return PullProgress{
		Ref: p.ref, StartedAt: p.started, Total: p.total.Load(), Done: p.done.Load(),
		Layers: int(p.layers.Load()), Unpacked: int(p.unpacked.Load()),
	}
}

// watch cancels a pull that waits for the registry and gets no byte for limit. The function it gives ends it.
func (p *progress) watch(limit time.Duration, cancel context.CancelCauseFunc) (stop func()) {
	quit := make(chan struct{})
	crash.Go(nil, "watch the progress of a pull", func() {
		idle := time.Now()
		tick := time.NewTicker(max(limit/8, time.Millisecond))
		defer tick.Stop()
		for {
			select {
			case <-quit:
				return
			case now := <-tick.C:
				if p.active.Load() == 0 {
					idle = now // it is us who are busy
				}
				if last := time.Unix(0, p.last.Load()); last.After(idle) {
					idle = last
				}
				if now.Sub(idle) > limit {
					cancel(fmt.Errorf("%w (%s)", errStalled, limit))
					return
				}
			}
		}
	})
	return func() { close(quit) }
}

// counted is a stream from a registry whose bytes are progress. Seek is passed on: a transfer that goes on begins there.
type counted struct {
	io.ReadCloser
	p *progress
}

func (c counted) Read(b []byte) (int, error) {
	n, err := c.ReadCloser.Read(b)
	if n > 0 {
		c.p.bytes(n)
	}
	return n, err
}

func (c counted) Seek(offset int64, whence int) (int64, error) {
	s, ok := c.ReadCloser.(io.Seeker)
	if !ok {
		return 0, fmt.Errorf("the transfer cannot go on in the middle")
	}
	n, err := s.Seek(offset, whence)
	if err == nil {
		c.p.done.Add(n)
	}
	return n, err
}

// WatchPulls sends the pulls in progress at once and then whenever they change, at most ten times a second, until ctx
// ends; then the channel is closed.
func (s *Store) WatchPulls(ctx context.Context) <-chan []PullProgress {
	out := make(chan []PullProgress)
	crash.Go(s.opts.Log, "report pulls", func() {
		defer close(out)
		for {
			all, changed := s.pulls.view()
			select {
			case out <- all:
			case <-ctx.Done():
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
			select {
			case <-time.After(reportEvery):
			case <-ctx.Done():
				return
			}
		}
	})
	return out
}

// view gives the pulls in progress, oldest first, and a channel that is closed when they have changed.
func (x *pulls) view() ([]PullProgress, <-chan struct{}) {
	x.mu.Lock()
	defer x.mu.Unlock()
	var all []PullProgress
	for _, p := range x.active {
		if p.progress.ready.Load() {
			all = append(all, p.progress.view())
		}
	}
	slices.SortFunc(all, func(a, b PullProgress) int {
		return cmp.Or(a.StartedAt.Compare(b.StartedAt), cmp.Compare(a.Ref, b.Ref))
	})
	return all, x.changed
}
