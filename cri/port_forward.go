package cri

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/internal/crash"
)

// PortForward gives a URL under which a client connects to TCP ports of a ready sandbox, once and within a minute.
func (s *Service) PortForward(_ context.Context, r *runtime.PortForwardRequest) (*runtime.PortForwardResponse, error) {
	for _, port := range r.GetPort() {
		if err := checkPort(r.GetPodSandboxId(), port); err != nil {
			return nil, err
		}
	}
	sb, err := s.forwardable(r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	url, err := s.streams.PortForward(&runtime.PortForwardRequest{PodSandboxId: sb.id, Port: slices.Clone(r.GetPort())})
	if err != nil {
		return nil, fmt.Errorf("port-forward to sandbox %s: %w", sb.id, err)
	}
	return &runtime.PortForwardResponse{Url: url}, nil
}

func checkPort(id string, port int32) error {
	if port < 1 || port > 65535 {
		return fmt.Errorf("port-forward to sandbox %s: port %d is none of 1 to 65535: %w", id, port, errdefs.ErrInvalidArgument)
	}
	return nil
}

// forwardable finds a sandbox and insists that it is ready.
func (s *Service) forwardable(id string) (*sandbox, error) {
	sb, err := s.index.sandbox(id)
	if err != nil {
		return nil, err
	}
	if !sb.ready() {
		return nil, fmt.Errorf("port-forward to sandbox %s: it is not ready: %w", sb.id, errdefs.ErrFailedPrecondition)
	}
	return sb, nil
}

// forwardsMax bounds the forwarded connections of one sandbox: each costs the daemon memory and a socket.
const forwardsMax = 256

// linger is how long a client that sends nothing is kept when the pod has said its last.
const linger = time.Second

// PortForward connects the client with a port of the pod until both have said their last. A client that shuts down its
// side still gets what the pod sends.
func (b *StreamBackend) PortForward(ctx context.Context, id string, port int32, stream io.ReadWriteCloser) error {
	if err := checkPort(id, port); err != nil {
		return err
	}
	sb, err := b.s.forwardable(id)
	if err != nil {
		return err
	}
	defer sb.forwards.Add(-1)
	if sb.forwards.Add(1) > forwardsMax {
		return fmt.Errorf("port-forward to port %d of sandbox %s: %d connections are forwarded already, close some of them: %w", port, sb.id, forwardsMax, errdefs.ErrResourceExhausted)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(sb.life, crash.Guard(b.s.Log, "end a port-forward", func() { cancel(context.Cause(sb.life)) }))()
	conn, err := b.s.Network.Dial(ctx, sb.pod(), uint16(port))
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, crash.Guard(b.s.Log, "close a forwarded connection", func() {
		_ = conn.SetLinger(0) // a pod that reads nothing would not see an orderly end behind what is on its way
		conn.Close()
	}))()
	sent := &countedWriter{w: conn}
	toPod := make(chan struct{})
	crash.Go(b.s.Log, "copy to a forwarded port", func() {
		defer close(toPod)
		if err := crash.Try(b.s.Log, "read from the client", func() error { _, err := io.Copy(sent, stream); return err }); errdefs.IsInternal(err) {
			conn.Close()
			return
		}
		if wasReset(stream) {
			conn.Close()
			return
		}
		_ = conn.CloseWrite()
	})
	_, err = io.Copy(untilReset{stream}, conn)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("port-forward to port %d of sandbox %s was ended: %w", port, id, context.Cause(ctx))
	case err != nil && !wasReset(stream):
		// One connection broke, which is the application's business: kubectl would take an error for the end of all others.
		b.s.Log.WithField("pod", id).WithError(err).Debug("a forwarded connection broke")
		reset(stream)
		return nil
	}
	_ = stream.Close()
	sent.quiet(ctx, toPod)
	reset(stream) // a client that never says its last must not keep a reader here
	return nil
}

// wasReset says whether the client has thrown the stream away: SPDY then calls our side finished too.
func wasReset(stream any) bool {
	s, ok := stream.(interface{ IsFinished() bool })
	return ok && s.IsFinished()
}

// reset throws the stream away, where its protocol has that.
func reset(stream any) {
	if s, ok := stream.(interface{ Reset() error }); ok {
		_ = s.Reset()
	}
}

// untilReset writes to the client as long as it wants to have it.
type untilReset struct{ io.Writer }

// Write is io.Writer's.
func (u untilReset) Write(p []byte) (int, error) {
	if wasReset(u.Writer) {
		return 0, io.ErrClosedPipe
	}
	return u.Writer.Write(p)
}

// countedWriter notes that something is written.
type countedWriter struct {
	w net.Conn
	n atomic.Int64
}

// Write is io.Writer's.
func (c *countedWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n.Add(int64(n))
	return n, err
}

// quiet returns when done is closed, ctx has ended, or nothing was written for linger.
func (c *countedWriter) quiet(ctx context.Context, done <-chan struct{}) {
	ticker := time.NewTicker(linger)
	defer ticker.Stop()
	for last := c.n.Load(); ; {
		select {
		case <-done:
			return
		case <-ctx.Done():
			return
		case <-ticker.C:
			now := c.n.Load()
			if now == last {
				return
			}
			last = now
		}
	}
}
