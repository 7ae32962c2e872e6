package cri

import (
	"sync"

	"github.com/sirupsen/logrus"
)

const (
	// execOutputMax bounds the output of an ExecSync, both streams together, and of all that run in one container at a time:
	// the kubelet takes messages of 16 MiB. The rest is read and dropped, so that the command does not block.
	execOutputMax = 16<<20 - 4<<10
	// execOutputAll bounds it for all containers.
	execOutputAll = 128 << 20
	// execOutputOwn is what each exec may keep whatever the others do: more than the kubelet takes of a probe's (10 KiB).
	execOutputOwn = 16 << 10
)

// execOutputs counts the output of commands that is kept for their callers, in bytes.
type execOutputs struct {
	log *logrus.Entry

	mu  sync.Mutex
	all int
	of  map[string]int // by container
}

func newExecOutputs(log *logrus.Entry) *execOutputs {
	return &execOutputs{log: log, of: map[string]int{}}
}

// budget is what the streams of one exec may keep together.
type budget struct {
	outputs   *execOutputs
	container string

	mu     sync.Mutex
	left   int  // of its own bound
	free   int  // of that, what is counted for no container
	shared int  // what it has of the others' too
	cut    bool // it could not have all
}

// budget returns that of an exec which may keep n bytes. release must be called.
func (o *execOutputs) budget(container string, n int) *budget {
	return &budget{outputs: o, container: container, left: n, free: execOutputOwn}
}

// take gives how many of n bytes may still be kept.
func (b *budget) take(n int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n = min(n, b.left)
	own := min(n, b.free)
	shared := b.outputs.take(b.container, n-own)
	b.left -= own + shared
	b.free -= own
	b.shared += shared
	if own+shared < n && !b.cut {
		b.cut = true
		b.outputs.log.WithField("container", b.container).Warn("the output of an exec is cut: that of all execs of the container, or of the node, fills what is kept of it")
	}
	return own + shared
}

// release gives back what was taken.
func (b *budget) release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.outputs.give(b.container, b.shared)
	b.shared, b.left = 0, 0
}

func (o *execOutputs) take(container string, n int) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	n = max(min(n, execOutputMax-o.of[container], execOutputAll-o.all), 0)
	if n > 0 {
		o.of[container] += n
		o.all += n
	}
	return n
}

func (o *execOutputs) give(container string, n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all -= n
	if o.of[container] -= n; o.of[container] == 0 {
		delete(o.of, container)
	}
}
