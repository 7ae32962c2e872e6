package cri

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/cri-pouch/cri-pouch/internal/crash"
)

// names makes creates idempotent. Each object has a unique name (of its CRI metadata); a second request for the name
// joins the one in progress, gets the object that is there, or makes it anew, as the digests of the requests and what
// the client was told decide.
type names struct {
	mu sync.Mutex
	m  map[string]*creation
	// untold is how long an object that no client was told of is kept for a retry.
	untold time.Duration
}

// creation is the making of one object, and later its reservation of the name.
type creation struct {
	digest string
	done   chan struct{} // closed when id or err is set
	id     string
	err    error
	told   bool // a client got the answer
	doomed bool // is being destroyed: wait for gone
	gone   chan struct{}
}

// maker is what names needs to know of the objects it names.
type maker struct {
	what  string        // "sandbox", "container"
	limit time.Duration // of one making
	make  func(ctx context.Context) (id string, err error)
	// destroy takes back an object that nobody was told of.
	destroy func(ctx context.Context, id string) error
	// reusable says whether the object may still be the answer to the same request.
	reusable func(id string) bool
	// tell makes the object visible in lists.
	tell func(id string)
}

func newNames(untold time.Duration) *names {
	return &names{m: map[string]*creation{}, untold: untold}
}

// create gives the ID of the object called name, made by this request or by an equal one. The making goes on when ctx
// ends. Another request's object is errdefs.ErrAlreadyExists, unless nobody was told of it: then it makes way.
func (n *names) create(ctx context.Context, name, digest string, mk maker) (string, error) {
	for {
		n.mu.Lock()
		c := n.m[name]
		mine := c == nil // what this very call made is its answer, whatever has become of it since
		if mine {
			c = &creation{digest: digest, done: make(chan struct{}), gone: make(chan struct{})}
			n.m[name] = c
			crash.Go(log.G(ctx), "create "+mk.what, func() { n.run(ctx, name, c, mk) })
		}
		n.mu.Unlock()

		select {
		case <-c.done:
		case <-ctx.Done():
			return "", fmt.Errorf("%s %s is still being created, the same request again will get it: %w", mk.what, name, ctx.Err())
		}
		id, again, err := n.answer(ctx, name, digest, c, mk, mine)
		if !again {
			return id, err
		}
	}
}

// answer decides what a finished creation means for a request; again asks the caller to look once more.
func (n *names) answer(ctx context.Context, name, digest string, c *creation, mk maker, mine bool) (id string, again bool, err error) {
	n.mu.Lock()
	if c.doomed {
		gone := c.gone
		n.mu.Unlock()
		select {
		case <-gone:
			return "", true, nil
		case <-ctx.Done():
			return "", false, ctx.Err()
		}
	}
	defer n.mu.Unlock()
	switch {
	case c.err != nil && c.digest != digest:
		return "", true, nil
	case c.err != nil:
		return "", false, c.err
	case mine || c.digest == digest && mk.reusable(c.id):
		if ctx.Err() != nil {
			return "", false, ctx.Err()
		}
		c.told = true
		mk.tell(c.id)
		return c.id, false, nil
	case c.told:
		return "", false, fmt.Errorf("%s %s exists already as %s: remove it first, or ask for the next attempt: %w",
			mk.what, name, c.id, errdefs.ErrAlreadyExists)
	}
	c.doomed = true
	crash.Go(log.G(ctx), "take back "+mk.what, func() { n.destroy(ctx, name, c, mk) })
	return "", true, nil
}

func (n *names) run(ctx context.Context, name string, c *creation, mk maker) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), mk.limit)
	defer cancel()
	var id string
	err := crash.Try(log.G(ctx), "create "+mk.what, func() (err error) { id, err = mk.make(ctx); return err })
	n.mu.Lock()
	c.id, c.err = id, err
	if err != nil {
		delete(n.m, name)
	}
	n.mu.Unlock()
	close(c.done)
	if err != nil {
		return
	}
	time.AfterFunc(n.untold, crash.Guard(log.G(ctx), "take back "+mk.what, func() {
		n.mu.Lock()
		idle := !c.told && !c.doomed && n.m[name] == c
		c.doomed = c.doomed || idle
		n.mu.Unlock()
		if idle {
			n.destroy(ctx, name, c, mk)
		}
	}))
}

// destroy takes back an untold object. If that fails the object is given up to the lists, where the client finds and
// removes it.
func (n *names) destroy(ctx context.Context, name string, c *creation, mk maker) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), mk.limit)
	defer cancel()
	err := crash.Try(log.G(ctx), "take back "+mk.what, func() error { return mk.destroy(ctx, c.id) })
	n.mu.Lock()
	defer n.mu.Unlock()
	if err != nil {
		c.told, c.doomed = true, false
		crash.Run(log.G(ctx), "list "+mk.what, func() { mk.tell(c.id) })
	} else if n.m[name] == c {
		delete(n.m, name)
	}
	close(c.gone)
	c.gone = make(chan struct{})
}

// adopt notes an object found at start: it is listed, so a client can know it.
func (n *names) adopt(name, digest, id string) {
	c := &creation{digest: digest, id: id, told: true, done: make(chan struct{}), gone: make(chan struct{})}
	close(c.done)
	n.mu.Lock()
	n.m[name] = c
	n.mu.Unlock()
}

// release frees the name of a removed object.
func (n *names) release(name, id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if c := n.m[name]; c != nil && c.id == id {
		delete(n.m, name)
	}
}
