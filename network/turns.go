package network

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// gcPatience is how long an ADD or DEL waits for a GC under way before that is ended, and how long it waits for the end.
const gcPatience = 5 * time.Second

// ErrBusy is the error of a GC that did not begin, for pods are being connected or released: it is to be tried again.
var ErrBusy = fmt.Errorf("pods are being connected or released: %w", errdefs.ErrUnavailable)

// errYield ends a GC for which a pod would have to wait.
var errYield = errors.New("it took too long, and a pod was to be connected or released")

// turns keep GC apart from ADD and DEL, as the CNI specification asks (section "GC"). Pods come first: GC begins only where nothing
// else is under way, and one that takes long is ended.
type turns struct {
	mu    sync.Mutex
	users int // ADDs and DELs under way
	gc    *gcTurn
}

type gcTurn struct {
	cancel context.CancelCauseFunc
	over   chan struct{}
}

// use waits until no GC is under way. leave must be called when the ADD or DEL is done.
func (t *turns) use(ctx context.Context) (leave func(), err error) {
	patience := time.NewTimer(gcPatience)
	defer patience.Stop()
	for ended := false; ; {
		t.mu.Lock()
		gc := t.gc
		if gc == nil {
			t.users++
			t.mu.Unlock()
			return t.leave, nil
		}
		t.mu.Unlock()
		select {
		case <-gc.over:
		case <-patience.C:
			if ended { // it was killed and hangs in the kernel: it does nothing any more
				t.end(gc)
				continue
			}
			gc.cancel(errYield)
			ended = true
			patience.Reset(gcPatience)
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for CNI GC: %w", ctx.Err())
		}
	}
}

func (t *turns) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.users--
}

// collect begins a GC, or returns ErrBusy. The context ends when a pod waits for it; end must be called when it is done.
func (t *turns) collect(ctx context.Context) (_ context.Context, end func(), err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.users > 0 || t.gc != nil {
		return nil, nil, ErrBusy
	}
	ctx, cancel := context.WithCancelCause(ctx)
	gc := &gcTurn{cancel: cancel, over: make(chan struct{})}
	t.gc = gc
	return ctx, func() {
		cancel(nil)
		t.end(gc)
		close(gc.over)
	}, nil
}

func (t *turns) end(gc *gcTurn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.gc == gc {
		t.gc = nil
	}
}
