package cri

import (
	"context"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// eventStream is a client that takes an event whenever the test lets it.
type eventStream struct {
	grpc.ServerStream
	ctx  context.Context
	take chan *runtime.ContainerEventResponse
}

func (s *eventStream) Context() context.Context { return s.ctx }

func (s *eventStream) Send(e *runtime.ContainerEventResponse) error {
	select {
	case s.take <- e:
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

// stalled gives a service with one reader that takes nothing yet, and what its call returns.
func stalled(t *testing.T) (*Service, *eventStream, chan error) {
	t.Helper()
	s, _ := newLineageService(t)
	stream := &eventStream{ctx: t.Context(), take: make(chan *runtime.ContainerEventResponse)}
	done := make(chan error, 1)
	go func() { done <- s.GetContainerEvents(nil, stream) }()
	for s.events.idle() {
		time.Sleep(time.Millisecond)
	}
	s.events.send(event(-1))
	for s.events.waiting() > 0 { // the first one is in the hands of Send
		time.Sleep(time.Millisecond)
	}
	return s, stream, done
}

func event(number int64) func() *runtime.ContainerEventResponse {
	return func() *runtime.ContainerEventResponse { return &runtime.ContainerEventResponse{CreatedAt: number} }
}

// idle says whether nobody reads.
func (b *broadcast) idle() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.readers) == 0
}

// waiting is how many events wait for all readers together.
func (b *broadcast) waiting() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for ch := range b.readers {
		n += len(ch)
	}
	return n
}

func TestAReaderMayFallBehindByTheBound(t *testing.T) {
	s, stream, done := stalled(t)
	for i := range eventsHeld {
		s.events.send(event(int64(i)))
	}
	for want := int64(-1); want < eventsHeld; want++ {
		if e := <-stream.take; e.CreatedAt != want {
			t.Fatalf("event %d comes where %d should", e.CreatedAt, want)
		}
	}
	select {
	case err := <-done:
		t.Errorf("the stream ended with %v", err)
	default:
	}
	s.events.send(event(7))
	if e := <-stream.take; e.CreatedAt != 7 {
		t.Errorf("the next event is %d", e.CreatedAt)
	}
}

func TestAReaderBehindTheBoundIsToldSo(t *testing.T) {
	s, stream, done := stalled(t)
	for i := range eventsHeld + 1 {
		s.events.send(event(int64(i)))
	}
	for want := int64(-1); want < eventsHeld; want++ { // nothing before the gap is lost
		if e := <-stream.take; e.CreatedAt != want {
			t.Fatalf("event %d comes where %d should", e.CreatedAt, want)
		}
	}
	if err := <-done; !errdefs.IsResourceExhausted(err) {
		t.Errorf("the stream ends with %v", err)
	}
	if !s.events.idle() {
		t.Error("the reader is still known")
	}
}
