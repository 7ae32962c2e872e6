package server

import (
	"context"
	"errors"
	"fmt"
	"path"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cri-pouch/cri-pouch/internal/crash"
)

// maxMessage bounds a message either way, in bytes, as the kubelet does (16 MiB).
const maxMessage = 16 << 20

// edge is what stands between the socket and the handlers, once for all RPCs: it turns a panic into an error, errors
// into gRPC codes, logs, counts, and knows what is in progress.
type edge struct {
	log     *logrus.Entry
	metrics *rpcMetrics
	// ending is done when the daemon drains: streams that end only with their client end then.
	ending context.Context

	mu    sync.Mutex
	calls map[*call]struct{}
}

// call is one RPC in progress.
type call struct {
	rpc   string // RunPodSandbox
	start time.Time
}

func newEdge(ending context.Context, log *logrus.Entry, m *rpcMetrics) *edge {
	return &edge{log: log, metrics: m, ending: ending, calls: map[*call]struct{}{}}
}

// options are what grpc.NewServer takes to serve through the edge.
func (e *edge) options() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage),
		grpc.UnaryInterceptor(e.unary), grpc.StreamInterceptor(e.stream),
		grpc.WaitForHandlers(true),
	}
}

func (e *edge) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	c := e.begin(info.FullMethod)
	err = e.guard(c, func() (err error) {
		resp, err = handler(ctx, req)
		return toStatus(err)
	})
	err = e.end(ctx, c, fieldsOf(req, resp), err)
	if err != nil {
		resp = nil
	}
	return resp, err
}

func (e *edge) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	c := e.begin(info.FullMethod)
	ctx, cancel := context.WithCancel(ss.Context())
	defer cancel()
	defer context.AfterFunc(e.ending, cancel)()
	err := e.guard(c, func() error { return toStatus(handler(srv, &boundStream{ss, ctx})) })
	if err != nil && errors.Is(ctx.Err(), context.Canceled) && e.ending.Err() != nil && ss.Context().Err() == nil {
		err = status.Error(codes.Unavailable, "the daemon is ending, call again once it is back")
	}
	return e.end(ctx, c, nil, err)
}

// boundStream is a stream whose context also ends with the daemon.
type boundStream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context is the stream's.
func (s *boundStream) Context() context.Context { return s.ctx }

func (e *edge) begin(method string) *call {
	c := &call{rpc: path.Base(method), start: time.Now()}
	e.mu.Lock()
	e.calls[c] = struct{}{}
	e.mu.Unlock()
	e.metrics.inFlight.WithLabelValues(c.rpc).Inc()
	return c
}

// guard runs fn; a panic is logged with its stack and becomes an error. One broken request must not end the daemon.
func (e *edge) guard(c *call, fn func() error) error {
	returned := false
	err := crash.Try(e.log.WithFields(logrus.Fields{"rpc": c.rpc, "component": "requests"}), c.rpc, func() error {
		err := fn()
		returned = true
		return err
	})
	if !returned {
		e.metrics.panics.WithLabelValues(c.rpc).Inc()
		err = toStatus(err)
	}
	return err
}

// toStatus gives an error its code by its class; the message stays as it is. Only class and message go into the conversion:
// errgrpc 0.3.0 walks the whole chain for details and dereferences the nil that net.DNSError and others unwrap to.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return errgrpc.ToGRPC(&classified{text: err.Error(), class: errdefs.Resolve(err)})
}

// classified is an error of which message and class are left.
type classified struct {
	text  string
	class error
}

func (c *classified) Error() string { return c.text }

func (c *classified) Unwrap() error { return c.class }

// end logs and counts a call whose error has its code.
func (e *edge) end(ctx context.Context, c *call, fields logrus.Fields, err error) error {
	took := time.Since(c.start)
	e.mu.Lock()
	delete(e.calls, c)
	e.mu.Unlock()
	code := status.Code(err)
	e.metrics.inFlight.WithLabelValues(c.rpc).Dec()
	e.metrics.duration.WithLabelValues(c.rpc).Observe(took.Seconds())
	e.metrics.total.WithLabelValues(c.rpc, code.String()).Inc()

	level := levelOf(c.rpc, code)
	if !e.log.Logger.IsLevelEnabled(level) {
		return err
	}
	l := e.log.WithContext(ctx).WithFields(fields).WithFields(logrus.Fields{"rpc": c.rpc, "duration": took.Round(time.Microsecond).String()})
	if err != nil {
		l = l.WithField("code", code.String()).WithError(errors.New(status.Convert(err).Message()))
		l.Log(level, "request failed")
		return err
	}
	l.Log(level, "request done")
	return nil
}

// inProgress names the calls that have not ended, as in "StopContainer (3s)", oldest first.
func (e *edge) inProgress() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	calls := make([]*call, 0, len(e.calls))
	for c := range e.calls {
		calls = append(calls, c)
	}
	sort.Slice(calls, func(i, j int) bool { return calls[i].start.Before(calls[j].start) })
	parts := make([]string, len(calls))
	for i, c := range calls {
		parts[i] = fmt.Sprintf("%s (%s)", c.rpc, time.Since(c.start).Round(time.Second))
	}
	return strings.Join(parts, ", ")
}
