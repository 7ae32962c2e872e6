package stream

import (
	"context"
	"io"
	"net/http"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"github.com/cri-pouch/cri-pouch/internal/crash"
)

// executor is what cri-streaming calls for one exec or attach. A WebSocket connection has all streams, also those that
// were not asked for: they are left out here.
type executor struct {
	s                *Server
	stdin, out, eout bool
}

func (e executor) only(in io.Reader, out, err io.WriteCloser) (io.Reader, io.WriteCloser, io.WriteCloser) {
	if !e.stdin {
		in = nil
	}
	if !e.out {
		out = nil
	}
	if !e.eout {
		err = nil
	}
	return in, out, err
}

// ExecInContainer is remotecommand.Executor's.
func (e executor) ExecInContainer(ctx context.Context, _, _, container string, cmd []string, in io.Reader, out, err io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	in, out, err = e.only(in, out, err)
	return e.s.guard("exec", func() error { return e.s.backend.Exec(ctx, container, cmd, in, out, err, tty, resize) })
}

// AttachContainer is remotecommand.Attacher's.
func (e executor) AttachContainer(ctx context.Context, _, _, container string, in io.Reader, out, err io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	in, out, err = e.only(in, out, err)
	return e.s.guard("attach", func() error { return e.s.backend.Attach(ctx, container, in, out, err, tty, resize) })
}

// forwarder is what cri-streaming calls for the ports of one connection. It gives them the connection's context: theirs
// is nobody's, so that a client that has gone could not be told from one that has only shut down its side.
type forwarder struct {
	s   *Server
	ctx context.Context
}

// PortForward is portforward.PortForwarder's.
func (f forwarder) PortForward(_ context.Context, sandbox, _ string, port int32, stream io.ReadWriteCloser) error {
	if !f.s.enter() { // a port may outlive the request that it came with
		return errEnding
	}
	defer f.s.wg.Done()
	if err := reply(stream); err != nil {
		return errGone
	}
	return f.s.guard("port-forward", func() error { return f.s.backend.PortForward(f.ctx, sandbox, port, stream) })
}

// reply answers the opening of a SPDY stream before anything else is done with it. cri-streaming does so at the same time
// from elsewhere, which has two flaws: a refusal may overtake the answer, and where the connection ends before it, spdystream
// waits for the answer for ever when the stream is closed. Refuse ends that wait.
func reply(stream any) error {
	s, ok := stream.(interface {
		SendReply(headers http.Header, fin bool) error
		Refuse() error
	})
	if !ok {
		return nil
	}
	err := s.SendReply(http.Header{}, false)
	if err != nil {
		_ = s.Refuse()
	}
	return err
}

// guard turns a panic into an error: it would end the daemon where cri-streaming calls from a goroutine of its own.
func (s *Server) guard(what string, fn func() error) error { return crash.Try(s.o.Log, what, fn) }
