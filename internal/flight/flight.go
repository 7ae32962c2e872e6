// Package flight joins callers that want the same work done: the first one starts it, the others wait for its result,
// and none of them can cut it off by going away.
package flight

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/log"

	"github.com/cri-pouch/cri-pouch/internal/crash"
)

// Flight is one piece of work that must not run twice at a time. The zero value is ready.
type Flight struct {
	mu  sync.Mutex
	cur *call
}

type call struct {
	done chan struct{}
	err  error
}

// Do runs fn, or waits for the run in progress, and gives its error. fn gets a context with ctx's values that ends after
// limit, whatever becomes of ctx: a caller that gives up gets ctx's error while the work goes on.
func (f *Flight) Do(ctx context.Context, limit time.Duration, fn func(context.Context) error) error {
	f.mu.Lock()
	c := f.cur
	if c == nil {
		c = &call{done: make(chan struct{})}
		f.cur = c
		crash.Go(log.G(ctx), "work that callers share", func() { f.run(ctx, limit, c, fn) })
	}
	f.mu.Unlock()
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return fmt.Errorf("gave up waiting (the work goes on): %w", ctx.Err())
	}
}

func (f *Flight) run(ctx context.Context, limit time.Duration, c *call, fn func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	defer func() {
		f.mu.Lock()
		f.cur = nil
		f.mu.Unlock()
		close(c.done)
	}()
	c.err = crash.Try(log.G(ctx), "work that callers share", func() error { return fn(ctx) })
}
