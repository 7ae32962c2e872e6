package shim

import "sync"

const (
	// attachBacklog is how many bytes of a stream may wait for an attached client.
	attachBacklog = 1 << 20
	// attachShare is how many may wait for all clients of one container, attachTotal for those of all containers.
	attachShare = 8 << 20
	attachTotal = 64 << 20
	// attachChunk is the unit in which memory is taken for them.
	attachChunk = 16 << 10
)

// chunks are the pieces of memory that output waits in.
var chunks = sync.Pool{New: func() any { b := make([]byte, 0, attachChunk); return &b }}

// backlog bounds what waits for the attached clients of all containers. A nil one bounds nothing.
type backlog struct {
	mu    sync.Mutex
	total int
	pods  map[string]*podBacklog
}

// podBacklog is what waits for the clients of one pod, in bytes of the chunks for it.
type podBacklog struct {
	total int
	of    map[*audience]int
}

func newBacklog() *backlog { return &backlog{pods: map[string]*podBacklog{}} }

// reserve takes a chunk for a client of a container; false: the container has its share, or all have theirs and no pod has more
// than this one. Where another has more, its slowest client makes room: no pod can use up what the others need.
func (b *backlog) reserve(a *audience) bool {
	if b == nil {
		return true
	}
	for {
		most, ok := b.tryReserve(a)
		if ok || most == nil || !most.detachSlowest() {
			return ok
		}
	}
}

// tryReserve gives, where there is no room, the container that has to make some.
func (b *backlog) tryReserve(a *audience) (most *audience, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	pod := b.pods[a.pod]
	if pod == nil {
		pod = &podBacklog{}
	}
	if pod.of[a]+attachChunk > attachShare {
		return nil, false
	}
	if b.total+attachChunk > attachTotal {
		return b.greediest(pod), false
	}
	if pod.of == nil {
		pod.of, b.pods[a.pod] = map[*audience]int{}, pod
	}
	pod.of[a] += attachChunk
	pod.total += attachChunk
	b.total += attachChunk
	return nil, true
}

// greediest returns the container with the most of the pod with the most; nil where no pod has more than this one. It must be
// called with mu held.
func (b *backlog) greediest(than *podBacklog) (most *audience) {
	pod := than
	for _, other := range b.pods {
		if other.total > pod.total {
			pod = other
		}
	}
	if pod == than {
		return nil
	}
	for a, held := range pod.of {
		if most == nil || held > pod.of[most] {
			most = a
		}
	}
	return most
}

func (b *backlog) release(a *audience, n int) {
	if b == nil || n == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	pod := b.pods[a.pod]
	b.total -= n
	pod.total -= n
	if pod.of[a] -= n; pod.of[a] == 0 {
		delete(pod.of, a)
	}
	if pod.total == 0 {
		delete(b.pods, a.pod)
	}
}
