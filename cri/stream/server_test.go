package stream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// fake is a backend whose calls a test has in hand.
type fake struct {
	exec    func(ctx context.Context, in io.Reader, out io.Writer) error
	forward func(ctx context.Context, stream io.ReadWriteCloser) error
	ended   chan error // what each call's context ended with
}

func (f *fake) Exec(ctx context.Context, _ string, _ []string, in io.Reader, out, _ io.WriteCloser, _ bool, _ <-chan remotecommand.TerminalSize) error {
	return f.exec(ctx, in, out)
}

func (f *fake) Attach(ctx context.Context, _ string, in io.Reader, out, _ io.WriteCloser, _ bool, _ <-chan remotecommand.TerminalSize) error {
	return f.exec(ctx, in, out)
}

func (f *fake) PortForward(ctx context.Context, _ string, _ int32, stream io.ReadWriteCloser) error {
	return f.forward(ctx, stream)
}

// hang waits for the end of the context.
func (f *fake) hang(ctx context.Context) error {
	<-ctx.Done()
	f.ended <- context.Cause(ctx)
	return context.Cause(ctx)
}

func serve(t *testing.T, f *fake) *Server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.ended = make(chan error, 10)
	logger, _ := logtest.NewNullLogger()
	s, err := New(Options{Base: "http://" + l.Addr().String(), Log: logrus.NewEntry(logger)}, f)
	if err != nil {
		t.Fatal(err)
	}
	h := &http.Server{Handler: s, ConnContext: s.ConnContext}
	done := make(chan struct{})
	go func() { defer close(done); _ = h.Serve(Listen(l.(*net.TCPListener))) }()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		h.Close()
		<-done
	})
	return s
}

// client opens streams on a URL. Closing raw is what the end of the client's process does.
func client(t *testing.T, address, protocol string, headers ...http.Header) (conn httpstream.Connection, raw net.Conn, streams []httpstream.Stream) {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	if raw, err = net.Dial("tcp", u.Host); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	r := &http.Request{Method: http.MethodPost, URL: u, Host: u.Host, Header: http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {spdy.HeaderSpdy31}, httpstream.HeaderProtocolVersion: {protocol},
	}}
	if err := r.Write(raw); err != nil {
		t.Fatal(err)
	}
	// The answer is read byte by byte: what follows it is SPDY.
	resp, err := http.ReadResponse(bufio.NewReaderSize(iotest.OneByteReader(raw), 16), r)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", resp, err)
	}
	if conn, err = spdy.NewClientConnection(raw); err != nil {
		t.Fatal(err)
	}
	for _, h := range headers {
		s, err := conn.CreateStream(h)
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, s)
	}
	return conn, raw, streams
}

func openExec(t *testing.T, s *Server) (raw net.Conn, status, in, out httpstream.Stream) {
	t.Helper()
	address, err := s.Exec(&runtime.ExecRequest{ContainerId: "c", Cmd: []string{"x"}, Stdin: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	kind := func(k string) http.Header { return http.Header{remotecommand.StreamType: {k}} }
	_, raw, streams := client(t, address, remotecommand.StreamProtocolV4Name, kind("error"), kind("stdin"), kind("stdout"))
	return raw, streams[0], streams[1], streams[2]
}

// flood sends until the way is full.
func flood(raw net.Conn, in io.Writer) {
	_ = raw.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
	for {
		if _, err := in.Write(make([]byte, 32<<10)); err != nil {
			return
		}
	}
}

func wantCause(t *testing.T, f *fake, want error) {
	t.Helper()
	select {
	case err := <-f.ended:
		if !errors.Is(err, want) {
			t.Errorf("the context ended with %v, want %v", err, want)
		}
	case <-time.After(time.Minute):
		t.Error("the context did not end")
	}
}

func TestClientGone(t *testing.T) {
	f := &fake{}
	s := serve(t, f)
	for name, exec := range map[string]func(ctx context.Context, in io.Reader, out io.Writer) error{
		"while nobody reads or writes": func(ctx context.Context, _ io.Reader, _ io.Writer) error { return f.hang(ctx) },
		"while stdin is read": func(ctx context.Context, in io.Reader, _ io.Writer) error {
			_, _ = io.Copy(io.Discard, in)
			return f.hang(ctx)
		},
		"while output is written": func(ctx context.Context, _ io.Reader, out io.Writer) error {
			for {
				if _, err := out.Write(make([]byte, 1<<10)); err != nil {
					return f.hang(ctx)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			f.exec = exec
			conn, _, _, out := openExec(t, s)
			go func() { _, _ = io.Copy(io.Discard, out) }()
			conn.Close()
			wantCause(t, f, errGone)
		})
	}
}

func TestHalfCloseIsNotTheEnd(t *testing.T) {
	f := &fake{exec: func(ctx context.Context, in io.Reader, out io.Writer) error {
		b, err := io.ReadAll(in)
		if err != nil || ctx.Err() != nil {
			return fmt.Errorf("read: %v, %v", err, ctx.Err())
		}
		_, err = fmt.Fprintf(out, "%d bytes", len(b))
		return err
	}}
	_, status, in, out := openExec(t, serve(t, f))
	_, _ = in.Write([]byte("hello"))
	in.Close()
	b, _ := io.ReadAll(out)
	said, _ := io.ReadAll(status)
	if string(b) != "5 bytes" || !strings.Contains(string(said), "Success") {
		t.Errorf("%q, %q", b, said)
	}
}

func TestCloseTellsWhy(t *testing.T) {
	f := &fake{}
	f.exec = func(ctx context.Context, _ io.Reader, _ io.Writer) error { return f.hang(ctx) }
	s := serve(t, f)
	_, status, _, _ := openExec(t, s)
	url, err := s.Exec(&runtime.ExecRequest{ContainerId: "c", Cmd: []string{"x"}, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Close() }()
	said, _ := io.ReadAll(status)
	if !strings.Contains(string(said), "the daemon is ending") {
		t.Errorf("the client was told %q", said)
	}
	wantCause(t, f, errEnding)
	if err := <-done; err != nil {
		t.Error(err)
	}
	resp, err := http.Post(url, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("after the end: %s", resp.Status)
	}
}

// A panic in a goroutine of cri-streaming would end the daemon.
func TestPanicEndsOneStream(t *testing.T) {
	f := &fake{forward: func(_ context.Context, stream io.ReadWriteCloser) error {
		_, _ = io.Copy(io.Discard, stream) // the client is not done with opening before
		panic("oops")
	}}
	s := serve(t, f)
	url, err := s.PortForward(&runtime.PortForwardRequest{PodSandboxId: "p"})
	if err != nil {
		t.Fatal(err)
	}
	kind := func(k string) http.Header {
		return http.Header{portforward.StreamType: {k}, portforward.PortHeader: {"80"}, portforward.PortForwardRequestIDHeader: {"1"}}
	}
	_, _, streams := client(t, url, portforward.ProtocolV1Name, kind("error"), kind("data"))
	streams[1].Close()
	if said, _ := io.ReadAll(streams[0]); !strings.Contains(string(said), "oops") {
		t.Errorf("the client was told %q", said)
	}
}

// The connection's end reaches the ports of a port-forward, whose library gives them no context of it.
func TestForwardEndsWithItsConnection(t *testing.T) {
	f := &fake{}
	f.forward = func(ctx context.Context, _ io.ReadWriteCloser) error { return f.hang(ctx) }
	s := serve(t, f)
	url, err := s.PortForward(&runtime.PortForwardRequest{PodSandboxId: "p"})
	if err != nil {
		t.Fatal(err)
	}
	kind := func(k string) http.Header {
		return http.Header{portforward.StreamType: {k}, portforward.PortHeader: {"80"}, portforward.PortForwardRequestIDHeader: {"1"}}
	}
	_, conn, streams := client(t, url, portforward.ProtocolV1Name, kind("error"), kind("data"))
	streams[1].Close()
	select {
	case err := <-f.ended:
		t.Errorf("a half-close ended it: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	conn.Close()
	wantCause(t, f, errGone)
}

// What was written before a close arrives, although the client was still sending.
func TestLastWordsArrive(t *testing.T) {
	f := &fake{exec: func(_ context.Context, _ io.Reader, out io.Writer) error {
		_, err := out.Write([]byte("last words"))
		return err
	}}
	s := serve(t, f)
	for range 20 {
		_, status, in, out := openExec(t, s)
		go func() {
			for {
				if _, err := in.Write(make([]byte, 32<<10)); err != nil {
					return
				}
			}
		}()
		said, _ := io.ReadAll(status)
		b, _ := io.ReadAll(out)
		if string(b) != "last words" || !strings.Contains(string(said), "Success") {
			t.Fatalf("%q, %q", b, said)
		}
	}
}

func TestUnknownRequests(t *testing.T) {
	s := serve(t, &fake{})
	url, err := s.Exec(&runtime.ExecRequest{ContainerId: "c"})
	if err != nil {
		t.Fatal(err)
	}
	for path, tc := range map[string]struct {
		method string
		code   int
	}{
		"/":          {http.MethodPost, http.StatusNotFound},
		"/exec/none": {http.MethodGet, http.StatusNotFound},
		"/exec/a/b":  {http.MethodPost, http.StatusNotFound},
		"/exec/x":    {http.MethodPut, http.StatusMethodNotAllowed},
		strings.Replace(url[len(s.o.Base):], "/exec/", "/attach/", 1): {http.MethodPost, http.StatusNotFound},
	} {
		r, err := http.NewRequest(tc.method, s.o.Base+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != tc.code {
			t.Errorf("%s %s: %s", tc.method, path, resp.Status)
		}
	}
}
