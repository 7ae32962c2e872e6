package harness

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/cmd/cri-pouch/remote"
)

// Output is an output that a test looks at while it grows.
type Output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

// String is what has come so far.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// Stream is a client of an exec or attach whose stdin, outputs and terminal the test has in hand. It leaves when the test
// ends.
type Stream struct {
	In       *io.PipeWriter
	Out, Err *Output // with a terminal, everything comes in Out
	Sizes    chan remote.Size

	leave context.CancelFunc
	done  chan struct{}
	code  int
	err   error
}

// ExecURL asks for an exec with all of the streams.
func (c *Container) ExecURL(t testing.TB, tty bool, argv ...string) string {
	t.Helper()
	r, err := c.Pod.Node.Daemon.Runtime.Exec(Context(t), &runtime.ExecRequest{
		ContainerId: c.ID, Cmd: argv, Tty: tty, Stdin: true, Stdout: true, Stderr: !tty,
	})
	if err != nil {
		t.Fatalf("Exec: %v", err)
	}
	return r.Url
}

// AttachURL asks for an attach with all of the streams that the container has.
func (c *Container) AttachURL(t testing.TB) string {
	t.Helper()
	r, err := c.Pod.Node.Daemon.Runtime.Attach(Context(t), &runtime.AttachRequest{
		ContainerId: c.ID, Tty: c.Config.Tty, Stdin: c.Config.Stdin, Stdout: true, Stderr: !c.Config.Tty,
	})
	if err != nil {
		t.Fatalf("Attach: %v", err)
	}
	return r.Url
}

// OpenExec runs a command in the container with a client that has all of its streams.
func (c *Container) OpenExec(t testing.TB, tty bool, argv ...string) *Stream {
	t.Helper()
	return OpenStream(t, c.ExecURL(t, tty, argv...), true, tty)
}

// OpenAttach attaches a client to all of the streams that the container has.
func (c *Container) OpenAttach(t testing.TB) *Stream {
	t.Helper()
	return OpenStream(t, c.AttachURL(t), c.Config.Stdin, c.Config.Tty)
}

// OpenStream connects a client to the URL of an exec or attach. What it asks for must be what the URL was made for.
func OpenStream(t testing.TB, url string, stdin, tty bool) *Stream {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	in, typing := io.Pipe()
	s := &Stream{In: typing, Out: &Output{}, Err: &Output{}, Sizes: make(chan remote.Size), leave: cancel, done: make(chan struct{})}
	streams := remote.Streams{Out: s.Out, TTY: tty, Sizes: s.Sizes}
	if stdin {
		streams.In = in
	}
	if !tty {
		streams.Err = s.Err
	}
	go func() {
		defer close(s.done)
		s.code, s.err = remote.Run(ctx, url, streams)
	}()
	t.Cleanup(func() {
		cancel()
		typing.Close()
		in.Close()
		<-s.done
	})
	return s
}

// Leave makes the client vanish, without a goodbye.
func (s *Stream) Leave() { s.leave() }

// Send types text.
func (s *Stream) Send(t testing.TB, text string) {
	t.Helper()
	if _, err := io.WriteString(s.In, text); err != nil {
		t.Fatalf("send %q: %v", text, err)
	}
}

// Await waits until stdout holds text.
func (s *Stream) Await(t testing.TB, text string) {
	t.Helper()
	s.await(t, s.Out, "stdout", text)
}

// AwaitErr waits until stderr holds text.
func (s *Stream) AwaitErr(t testing.TB, text string) {
	t.Helper()
	s.await(t, s.Err, "stderr", text)
}

func (s *Stream) await(t testing.TB, o *Output, name, text string) {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Logf("the client got %q and on stderr %q", s.Out, s.Err)
		}
	}()
	Eventually(t, fmt.Sprintf("the client gets %q on %s", text, name), func() bool {
		select {
		case <-s.done:
			if !strings.Contains(o.String(), text) {
				t.Fatalf("the stream ended (code %d, %v) without %q on %s", s.code, s.err, text, name)
			}
		default:
		}
		return strings.Contains(o.String(), text)
	})
}

// End waits for the end of the stream and gives the command's exit code, as far as there is one, and what the client was
// told.
func (s *Stream) End(t testing.TB) (code int, err error) {
	t.Helper()
	select {
	case <-s.done:
	case <-Context(t).Done():
		t.Fatalf("the stream did not end; output %q %q", s.Out, s.Err)
	}
	return s.code, s.err
}
