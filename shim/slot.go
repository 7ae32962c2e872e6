package shim

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cri-pouch/cri-pouch/internal/crash"
)

// slotHint is how long a launch keeps its slot: slots bound the use of CPUs, and what takes longer waits for something else. Less than two seconds, the most that a pod may wait for another.
const slotHint = 3 * time.Second / 2

// slots bound the launches under way: those of the node, since a launch is bound by CPU and more at once only make each slower, and
// those of each pod. A launch that hangs gives its slot of the node back, but not that of its pod, which a pod whose root
// holds launches up has therefore used up soon.
type slots struct {
	node   chan struct{}
	forPod int

	mu   sync.Mutex
	pods map[string]*podSlots
}

type podSlots struct {
	taken chan struct{}
	users int // who has or waits for one
}

// newSlots returns slots for so many launches at once; a pod gets a quarter of them, and 2 at least.
func newSlots(n int) *slots {
	return &slots{node: make(chan struct{}, n), forPod: max(2, n/4), pods: map[string]*podSlots{}}
}

// slot is the leave to launch something.
type slot struct {
	slots *slots
	pod   string
	taken chan struct{} // the pod's
	over  chan struct{} // closed by release
	hint  *time.Timer

	mu            sync.Mutex
	held, heldPod bool // one of the node's, one of the pod's
}

// acquire waits for a slot of the pod's and one of the node's. The node's is given back after slotHint.
func (s *slots) acquire(ctx context.Context, pod string) (*slot, error) {
	p := s.enter(pod)
	select {
	case p.taken <- struct{}{}:
	case <-ctx.Done():
		s.leave(pod)
		return nil, fmt.Errorf("too many launches at once in the pod: %w (%w)", errdefs.ErrUnavailable, ctx.Err())
	}
	select {
	case s.node <- struct{}{}:
	case <-ctx.Done():
		<-p.taken
		s.leave(pod)
		return nil, fmt.Errorf("too many launches at once on the node: %w (%w)", errdefs.ErrUnavailable, ctx.Err())
	}
	one := &slot{slots: s, pod: pod, taken: p.taken, over: make(chan struct{}), held: true, heldPod: true}
	one.hint = time.AfterFunc(slotHint, crash.Guard(nil, "give a slot back", one.yield))
	return one, nil
}

func (s *slots) enter(pod string) *podSlots {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.pods[pod]
	if p == nil {
		p = &podSlots{taken: make(chan struct{}, s.forPod)}
		s.pods[pod] = p
	}
	p.users++
	return p
}

func (s *slots) leave(pod string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.pods[pod]
	if p.users--; p.users == 0 {
		delete(s.pods, pod)
	}
}

// release gives the node's slot back, and the pod's as soon as after is closed: until then the launch hangs. It must be called
// once.
func (o *slot) release(after <-chan struct{}) {
	o.hint.Stop()
	close(o.over)
	o.yield()
	if isOver(after) {
		o.leave()
		return
	}
	crash.Go(nil, "wait for a launch that hangs", func() {
		<-after
		o.leave()
	})
}

func (o *slot) leave() {
	o.yieldPod()
	o.slots.leave(o.pod)
}

// without runs what may take long, hardly needs a CPU and is not the pod's doing without the slots, and waits for them again. A slot
// that is released meanwhile is not waited for.
func (o *slot) without(run func()) {
	o.yield()
	o.yieldPod()
	defer o.reacquire()
	run()
}

// yield gives the node's slot to others.
func (o *slot) yield() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.held {
		<-o.slots.node
		o.held = false
	}
}

func (o *slot) yieldPod() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.heldPod {
		<-o.taken
		o.heldPod = false
	}
}

func (o *slot) reacquire() {
	select {
	case o.taken <- struct{}{}:
	case <-o.over:
		return
	}
	o.mu.Lock()
	o.heldPod = true
	o.mu.Unlock()
	select {
	case o.slots.node <- struct{}{}:
	case <-o.over:
		o.yieldPod()
		return
	}
	o.mu.Lock()
	o.held = true
	o.mu.Unlock()
	o.hint.Reset(slotHint)
	select {
	case <-o.over: // release may have come before held was true
		o.hint.Stop()
		o.yield()
		o.yieldPod()
	default:
	}
}
