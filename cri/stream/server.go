// Package stream serves what CRI hands to clients by URL: exec, attach and port-forward, in the kubelet's protocols over
// SPDY and WebSocket. The protocols are those of k8s.io/cri-streaming; tokens, the ends of connections and who waits for
// whom are here. It knows nothing of containers.
package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/sirupsen/logrus"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"github.com/cri-pouch/cri-pouch/internal/crash"
	"github.com/cri-pouch/cri-pouch/internal/hangup"
)

// Backend does what a stream is for. Streams that were not asked for are nil. ctx ends, with a cause, when the client has
// gone or the server is closed; a method must then return soon. The client's connection is closed when it returns.
type Backend interface {
	// Exec runs a command in a container. An exit code other than 0 is a k8s.io/utils/exec.ExitError, not wrapped.
	Exec(ctx context.Context, containerID string, cmd []string, in io.Reader, out, err io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error
	// Attach connects the client to a container's first process until that ends.
	Attach(ctx context.Context, containerID string, in io.Reader, out, err io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error
	// PortForward connects the client to a port of a sandbox. Closing stream is the end of what goes to the client.
	PortForward(ctx context.Context, sandboxID string, port int32, stream io.ReadWriteCloser) error
}

// The causes of an early end.
var (
	errGone   = fmt.Errorf("the client has gone: %w", errdefs.ErrAborted)
	errEnding = fmt.Errorf("the daemon is ending, open the stream again once it is back: %w", errdefs.ErrUnavailable)
)

const (
	// creationLimit is how long a client has to open its streams on a connection.
	creationLimit = 30 * time.Second
	// farewell is how long a connection is left to tell its client why it ends, when the server is closed.
	farewell = time.Second
	// closeLimit is how long Close waits for the backend.
	closeLimit = 10 * time.Second
)

// Options are what New needs.
type Options struct {
	Base string // "http://127.0.0.1:41235": what URLs begin with
	// Idle is how long a connection may carry nothing; 0: for ever.
	Idle time.Duration
	Log  *logrus.Entry
}

// Server gives URLs and is the http.Handler behind them. It needs connections of a
// listener from Listen, and to be told of them by ConnContext.
type Server struct {
	o       Options
	backend Backend
	tokens  *tokens
	watcher *hangup.Watcher
	// probeEvery is the constant; tests are quicker.
	probeEvery time.Duration

	ctx context.Context // of all streams
	end context.CancelCauseFunc

	mu     sync.Mutex // guards wg against Add after Wait
	closed bool
	wg     sync.WaitGroup
}

// New makes a Server; Close ends it.
func New(o Options, b Backend) (*Server, error) {
	w, err := hangup.New()
	if err != nil {
		return nil, err
	}
	s := &Server{o: o, backend: b, tokens: newTokens(), watcher: w, probeEvery: probeEvery}
	s.ctx, s.end = context.WithCancelCause(context.Background())
	return s, nil
}

// Exec gives the URL of an exec that has been checked.
func (s *Server) Exec(r *runtime.ExecRequest) (string, error) { return s.url("exec", r) }

// Attach gives the URL of an attach that has been checked.
func (s *Server) Attach(r *runtime.AttachRequest) (string, error) { return s.url("attach", r) }

// PortForward gives the URL of a port-forward that has been checked.
func (s *Server) PortForward(r *runtime.PortForwardRequest) (string, error) {
	return s.url("portforward", r)
}

func (s *Server) url(kind string, request any) (string, error) {
	token, err := s.tokens.add(request)
	if err != nil {
		return "", err
	}
	return url.JoinPath(s.o.Base, kind, token)
}

type connKey struct{}

// ConnContext is http.Server's hook of this name.
func (s *Server) ConnContext(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// ServeHTTP answers /KIND/TOKEN.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodPost {
		http.Error(w, "streams are opened with GET or POST", http.StatusMethodNotAllowed)
		return
	}
	if !s.enter() {
		http.Error(w, errEnding.Error(), http.StatusServiceUnavailable)
		return
	}
	defer s.wg.Done()
	kind, token, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	request, ok := s.tokens.take(token)
	if !ok {
		http.Error(w, "no stream waits under this token: each is good once and for a minute", http.StatusNotFound)
		return
	}
	c, err := connOf(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	ctx, leave, err := s.watch(r.Context(), c)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer leave()
	r = r.WithContext(ctx)
	p := newProber(w, r, c, s.probeEvery)
	switch {
	case !s.serve(p, r, kind, request):
		http.Error(w, "the token is that of another kind of stream", http.StatusNotFound)
	case p.hijacked: // cri-streaming leaves a client that does not open its streams in time
		c.Close()
	}
}

func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.wg.Add(1)
	return true
}

// serve leaves the protocol to cri-streaming; false when the request is of another kind than the URL.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, kind string, request any) bool {
	switch req := request.(type) {
	case *runtime.ExecRequest:
		if kind != "exec" {
			return false
		}
		e := executor{s, req.Stdin, req.Stdout, req.Stderr}
		o := &remotecommand.Options{Stdin: req.Stdin, Stdout: req.Stdout, Stderr: req.Stderr, TTY: req.Tty}
		if wantsV5(r) {
			s.serveV5(w, r, o, func(in io.Reader, out, err io.WriteCloser, resize <-chan remotecommand.TerminalSize) error {
				return e.ExecInContainer(r.Context(), "", "", req.ContainerId, req.Cmd, in, out, err, req.Tty, resize, 0)
			})
			return true
		}
		remotecommand.ServeExec(w, r, e, "", "", req.ContainerId, req.Cmd, o, s.o.Idle, creationLimit, remotecommand.SupportedStreamingProtocols)
	case *runtime.AttachRequest:
		if kind != "attach" {
			return false
		}
		e := executor{s, req.Stdin, req.Stdout, req.Stderr}
		o := &remotecommand.Options{Stdin: req.Stdin, Stdout: req.Stdout, Stderr: req.Stderr, TTY: req.Tty}
		if wantsV5(r) {
			s.serveV5(w, r, o, func(in io.Reader, out, err io.WriteCloser, resize <-chan remotecommand.TerminalSize) error {
				return e.AttachContainer(r.Context(), "", "", req.ContainerId, in, out, err, req.Tty, resize)
			})
			return true
		}
		remotecommand.ServeAttach(w, r, e, "", "", req.ContainerId, o, s.o.Idle, creationLimit, remotecommand.SupportedStreamingProtocols)
	case *runtime.PortForwardRequest:
		if kind != "portforward" {
			return false
		}
		f := forwarder{s, r.Context()}
		o, err := portforward.BuildV4Options(req.Port)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return true
		}
		tunnel(w, r, func(w http.ResponseWriter, r *http.Request) {
			portforward.ServePortForward(w, r, f, req.PodSandboxId, "", o, s.o.Idle, creationLimit, portforward.SupportedProtocols)
		})
	}
	return true
}

// connOf gives the connection that a request came on.
func connOf(ctx context.Context) (*conn, error) {
	outer, _ := ctx.Value(connKey{}).(net.Conn)
	if t, ok := outer.(interface{ NetConn() net.Conn }); ok { // TLS
		outer = t.NetConn()
	}
	if c, ok := outer.(*conn); ok {
		return c, nil
	}
	return nil, errors.New("the connection is unknown: it needs ConnContext, and a listener from Listen")
}

// watch gives a context that ends when the client goes or the server is closed. The connection is closed then, which ends
// whatever reads or writes it: at once, or a little later where the client should learn why.
func (s *Server) watch(ctx context.Context, c *conn) (_ context.Context, leave func(), err error) {
	request := ctx // net/http ends it, without a cause, when a read of the connection fails
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(request))
	stop, err := s.watcher.Watch(c, func() {
		cancel(errGone)
		c.abort()
	})
	if err != nil {
		cancel(err)
		return nil, nil, err
	}
	c.notify(func() { cancel(errGone) })
	failed := context.AfterFunc(request, crash.Guard(s.o.Log, "end a stream", func() { cancel(errGone) }))
	var mu sync.Mutex
	var late *time.Timer
	ending := context.AfterFunc(s.ctx, crash.Guard(s.o.Log, "end a stream", func() {
		cancel(errEnding)
		mu.Lock()
		defer mu.Unlock()
		late = time.AfterFunc(farewell, crash.Guard(s.o.Log, "close a connection", c.abort))
	}))
	return ctx, func() {
		stop()
		failed()
		ending()
		mu.Lock()
		defer mu.Unlock()
		if late != nil {
			late.Stop()
		}
		cancel(errGone)
	}, nil
}

// Close ends all streams and waits for them. It can be repeated.
func (s *Server) Close() error {
	s.mu.Lock()
	closed := s.closed
	s.closed = true
	s.mu.Unlock()
	if closed {
		return nil
	}
	s.end(errEnding)
	done := make(chan struct{})
	crash.Go(s.o.Log, "wait for the streams", func() { s.wg.Wait(); close(done) })
	var err error
	select {
	case <-done:
	case <-time.After(closeLimit):
		err = fmt.Errorf("streams did not end within %s: %w", closeLimit, context.DeadlineExceeded)
	}
	return errors.Join(err, s.watcher.Close())
}
