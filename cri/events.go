package cri

import (
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// eventsHeld is how many events wait for one slow reader; one that falls behind further is told so by the end of its
// stream and lists anew, instead of missing events unseen.
const eventsHeld = 4096

// broadcast hands each event to all readers, in order, without ever waiting for one.
type broadcast struct {
	mu      sync.Mutex
	readers map[chan *runtime.ContainerEventResponse]struct{}
}

func newBroadcast() *broadcast {
	return &broadcast{readers: map[chan *runtime.ContainerEventResponse]struct{}{}}
}

// subscribe gives a channel that is closed when its reader is too slow, and the way to leave.
func (b *broadcast) subscribe() (<-chan *runtime.ContainerEventResponse, func()) {
	ch := make(chan *runtime.ContainerEventResponse, eventsHeld)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.readers[ch] = struct{}{}
	return ch, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.readers, ch)
	}
}

// send makes an event and hands it out. Making it under the lock keeps what it says of the pod as old as its place in the
// row: no event shows less than one before it.
func (b *broadcast) send(event func() *runtime.ContainerEventResponse) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.readers) == 0 {
		return
	}
	e := event()
	for ch := range b.readers {
		select {
		case ch <- e:
		default:
			delete(b.readers, ch)
			close(ch)
		}
	}
}

// GetContainerEvents streams what happens to sandboxes and containers from the call on (evented PLEG).
func (s *Service) GetContainerEvents(_ *runtime.GetEventsRequest, stream runtime.RuntimeService_GetContainerEventsServer) error {
	events, leave := s.events.subscribe()
	defer leave()
	for {
		select {
		case e, ok := <-events:
			if !ok {
				return fmt.Errorf("the reader fell more than %d events behind, subscribe and list again: %w", eventsHeld, errdefs.ErrResourceExhausted)
			}
			if err := stream.Send(e); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return nil
		case <-s.chores.ctx.Done():
			return fmt.Errorf("the daemon is stopping: %w", errdefs.ErrUnavailable)
		}
	}
}

// publish sends an event of a container, with the statuses of the pod and all its listed containers. The sandbox's timestamp is
// not part of it: see PodSandboxStatus.
func (s *Service) publish(kind runtime.ContainerEventType, containerID, sandboxID string) {
	s.events.send(func() *runtime.ContainerEventResponse {
		sb, _ := s.index.sandbox(sandboxID) // nil: it is gone
		return s.event(kind, containerID, sandboxID, sb)
	})
}

// publishSandbox sends an event of a sandbox, which CRI has no kinds for: as with other runtimes it is one of a container that has
// the sandbox's ID. A sandbox that no client was told of has none. The event of its removal shows what it was.
func (s *Service) publishSandbox(kind runtime.ContainerEventType, sb *sandbox) {
	if sb.listed.Load() {
		s.events.send(func() *runtime.ContainerEventResponse { return s.event(kind, sb.id, sb.id, sb) })
	}
}

func (s *Service) event(kind runtime.ContainerEventType, id, sandboxID string, sb *sandbox) *runtime.ContainerEventResponse {
	e := &runtime.ContainerEventResponse{ContainerId: id, ContainerEventType: kind, CreatedAt: time.Now().UnixNano()}
	if sb != nil {
		e.PodSandboxStatus = sandboxStatus(sb.record())
	}
	for _, c := range s.index.containersOf(sandboxID) {
		if c.listed.Load() {
			e.ContainersStatuses = append(e.ContainersStatuses, containerStatus(c.view()))
		}
	}
	return e
}
