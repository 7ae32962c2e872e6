package shim

import (
	"sync"

	shimapi "github.com/cri-pouch/cri-pouch/shim/api/v1"
)

// eventBacklog is how many events a slow subscriber may lag behind. Beyond it the subscription ends, so that the
// subscriber lists again, rather than missing one or holding up the containers.
const eventBacklog = 1024

// broker hands events to all subscribers.
type broker struct {
	mu     sync.Mutex
	subs   map[chan *shimapi.Event]struct{}
	closed bool
}

func newBroker() *broker { return &broker{subs: map[chan *shimapi.Event]struct{}{}} }

// subscribe gives a channel that is closed when the subscriber was too slow, or the shim ends.
func (b *broker) subscribe() (events <-chan *shimapi.Event, cancel func()) {
	ch := make(chan *shimapi.Event, eventBacklog)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		close(ch)
		return ch, func() {}
	}
	b.subs[ch] = struct{}{}
	return ch, func() { b.drop(ch) }
}

func (b *broker) drop(ch chan *shimapi.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.subs[ch]; ok {
		delete(b.subs, ch)
		close(ch)
	}
}

func (b *broker) publish(e *shimapi.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for ch := range b.subs {
		select {
		case ch <- e:
		default:
			delete(b.subs, ch)
			close(ch)
		}
	}
}

func (b *broker) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for ch := range b.subs {
		delete(b.subs, ch)
		close(ch)
	}
}
