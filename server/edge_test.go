package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
	"github.com/cri-pouch/cri-pouch/internal/crash"
)

// handlers is a service whose answers a test chooses.
type handlers struct {
	runtime.UnimplementedRuntimeServiceServer
	runtime.UnimplementedImageServiceServer
	pouchv1.UnimplementedPouchServer
	stop  func(context.Context, *runtime.StopContainerRequest) (*runtime.StopContainerResponse, error)
	watch func(pouchv1.Pouch_WatchPullsServer) error
}

func (h *handlers) Version(context.Context, *runtime.VersionRequest) (*runtime.VersionResponse, error) {
	return &runtime.VersionResponse{RuntimeName: "cri-pouch"}, nil
}

func (h *handlers) StopContainer(ctx context.Context, r *runtime.StopContainerRequest) (*runtime.StopContainerResponse, error) {
	return h.stop(ctx, r)
}

func (h *handlers) ListContainers(context.Context, *runtime.ListContainersRequest) (*runtime.ListContainersResponse, error) {
	return &runtime.ListContainersResponse{Containers: []*runtime.Container{{Id: strings.Repeat("x", maxMessage)}}}, nil
}

func (h *handlers) RunPodSandbox(context.Context, *runtime.RunPodSandboxRequest) (*runtime.RunPodSandboxResponse, error) {
	return &runtime.RunPodSandboxResponse{PodSandboxId: "p1"}, nil
}

func (h *handlers) WatchPulls(_ *pouchv1.WatchPullsRequest, s pouchv1.Pouch_WatchPullsServer) error {
	return h.watch(s)
}

// running is a daemon's upper half over handlers.
type running struct {
	conn   *grpc.ClientConn
	config Config
	logs   *logtest.Hook
	end    context.CancelFunc
	done   chan error
}

func (r *running) runtime() runtime.RuntimeServiceClient {
	return runtime.NewRuntimeServiceClient(r.conn)
}

// entry waits for the log line of an RPC's end.
func (r *running) entry(t *testing.T, rpc string) *logrus.Entry {
	t.Helper()
	for _, e := range r.logs.AllEntries() {
		if e.Data["rpc"] == rpc && e.Data["duration"] != nil {
			return e
		}
	}
	t.Fatalf("no line for %s in %v", rpc, r.logs.AllEntries())
	return nil
}

// start serves h on a socket of its own until the test ends.
func start(t *testing.T, h *handlers, change ...func(*Options)) *running {
	t.Helper()
	logger, hook := logtest.NewNullLogger()
	logger.SetLevel(logrus.DebugLevel)
	c := Default()
	c.Root, c.State = t.TempDir(), t.TempDir()
	ready := make(chan string, 1)
	o := Options{Config: c, Log: logrus.NewEntry(logger), Version: "test", Ready: func(s string) { ready <- s }}
	for _, f := range change {
		f(&o)
	}
	ctx, end := context.WithCancel(t.Context())
	r := &running{config: o.Config, logs: hook, end: end, done: make(chan error, 1)}
	go func() {
		r.done <- serve(ctx, o, h, prometheus.NewRegistry(), newNotifier(o.Log))
		close(r.done)
	}()
	t.Cleanup(func() { end(); <-r.done })
	select {
	case socket := <-ready:
		r.conn = connect(t, socket)
	case err := <-r.done:
		t.Fatal(err)
	}
	return r
}

func connect(t *testing.T, socket string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestEdgeCodes(t *testing.T) {
	wrap := func(class error) error { return fmt.Errorf("stop container c1: process 7: %w", class) }
	for name, tc := range map[string]struct {
		err   error
		code  codes.Code
		level logrus.Level
	}{
		"success":             {nil, codes.OK, logrus.InfoLevel},
		"not found":           {wrap(errdefs.ErrNotFound), codes.NotFound, logrus.WarnLevel},
		"already exists":      {wrap(errdefs.ErrAlreadyExists), codes.AlreadyExists, logrus.WarnLevel},
		"invalid argument":    {wrap(errdefs.ErrInvalidArgument), codes.InvalidArgument, logrus.WarnLevel},
		"failed precondition": {wrap(errdefs.ErrFailedPrecondition), codes.FailedPrecondition, logrus.WarnLevel},
		"unavailable":         {wrap(errdefs.ErrUnavailable), codes.Unavailable, logrus.WarnLevel},
		"aborted":             {wrap(errdefs.ErrAborted), codes.Aborted, logrus.WarnLevel},
		"exhausted":           {wrap(errdefs.ErrResourceExhausted), codes.ResourceExhausted, logrus.WarnLevel},
		"not implemented":     {wrap(errdefs.ErrNotImplemented), codes.Unimplemented, logrus.WarnLevel},
		"internal":            {wrap(errdefs.ErrInternal), codes.Internal, logrus.ErrorLevel},
		"data loss":           {wrap(errdefs.ErrDataLoss), codes.DataLoss, logrus.ErrorLevel},
		"no class":            {errors.New("disk on fire"), codes.Unknown, logrus.ErrorLevel},
		"deadline":            {wrap(context.DeadlineExceeded), codes.DeadlineExceeded, logrus.WarnLevel},
		"cancelled":           {wrap(context.Canceled), codes.Canceled, logrus.WarnLevel},
		"a status":            {status.Error(codes.PermissionDenied, "no"), codes.PermissionDenied, logrus.WarnLevel},
		"a wrapped status":    {wrap(status.Error(codes.OutOfRange, "far")), codes.OutOfRange, logrus.WarnLevel},
		"an unwrapped nil":    {errors.Join(wrap(errdefs.ErrUnavailable), &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no host", Name: "x"}}), codes.Unavailable, logrus.WarnLevel},
		"many lines":          {wrap(errors.New("a\nb\tü")), codes.Unknown, logrus.ErrorLevel},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, &handlers{stop: func(context.Context, *runtime.StopContainerRequest) (*runtime.StopContainerResponse, error) {
				return &runtime.StopContainerResponse{}, tc.err
			}})
			_, err := r.runtime().StopContainer(t.Context(), &runtime.StopContainerRequest{ContainerId: "c1"})
			if got := status.Code(err); got != tc.code {
				t.Errorf("code %s, want %s", got, tc.code)
			}
			if tc.err != nil {
				if want := status.Convert(tc.err).Message(); status.Convert(err).Message() != want {
					t.Errorf("message %q, want %q", status.Convert(err).Message(), want)
				}
			}
			e := r.entry(t, "StopContainer")
			if e.Level != tc.level || e.Data["container"] != "c1" || e.Data["duration"] == "" {
				t.Errorf("logged %s %v", e.Level, e.Data)
			}
			if tc.err != nil && (e.Data["code"] != tc.code.String() || e.Data[logrus.ErrorKey] == nil) {
				t.Errorf("logged without code or error: %v", e.Data)
			}
		})
	}
}

func TestEdgeLogsReadsForDebuggingOnly(t *testing.T) {
	r := start(t, &handlers{})
	if _, err := r.runtime().Version(t.Context(), &runtime.VersionRequest{}); err != nil {
		t.Fatal(err)
	}
	if e := r.entry(t, "Version"); e.Level != logrus.DebugLevel {
		t.Errorf("logged at %s", e.Level)
	}
	_, err := r.runtime().RunPodSandbox(t.Context(), &runtime.RunPodSandboxRequest{
		Config: &runtime.PodSandboxConfig{Metadata: &runtime.PodSandboxMetadata{Name: "web", Namespace: "prod"}}})
	if err != nil {
		t.Fatal(err)
	}
	if e := r.entry(t, "RunPodSandbox"); e.Level != logrus.InfoLevel || e.Data["pod"] != "p1" || e.Data["pod_name"] != "prod/web" {
		t.Errorf("logged %s %v", e.Level, e.Data)
	}
}

func TestEdgeKnowsEveryRead(t *testing.T) {
	// A new RPC of a later CRI counts as a change until somebody has looked at it here.
	changes := map[string]bool{}
	for _, name := range strings.Fields(`RunPodSandbox StopPodSandbox RemovePodSandbox CreateContainer StartContainer StopContainer
		RemoveContainer UpdateContainerResources ReopenContainerLog ExecSync Exec Attach PortForward UpdateRuntimeConfig
		CheckpointContainer CheckpointPod RestorePod UpdatePodSandboxResources PullImage RemoveImage ImportImage Repair`) {
		changes[name] = true
	}
	check := func(name string) {
		if isRead(name) == changes[name] {
			t.Errorf("%s: isRead says %v", name, isRead(name))
		}
	}
	for _, d := range []grpc.ServiceDesc{runtime.RuntimeService_ServiceDesc, runtime.ImageService_ServiceDesc, pouchv1.Pouch_ServiceDesc} {
		for _, m := range d.Methods {
			check(m.MethodName)
		}
		for _, s := range d.Streams {
			check(s.StreamName)
		}
	}
}

func TestEdgePanic(t *testing.T) {
	r := start(t, &handlers{
		stop: func(context.Context, *runtime.StopContainerRequest) (*runtime.StopContainerResponse, error) {
			panic("unary boom")
		},
		watch: func(pouchv1.Pouch_WatchPullsServer) error { panic("stream boom") },
	})
	_, err := r.runtime().StopContainer(t.Context(), &runtime.StopContainerRequest{})
	if status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "unary boom") {
		t.Errorf("unary: %v", err)
	}
	s, err := pouchv1.NewPouchClient(r.conn).WatchPulls(t.Context(), &pouchv1.WatchPullsRequest{})
	if err == nil {
		_, err = s.Recv()
	}
	if status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "stream boom") {
		t.Errorf("stream: %v", err)
	}
	stacks := 0
	for _, e := range r.logs.AllEntries() {
		if s, ok := e.Data["stack"].(string); ok && strings.Contains(s, "edge_test.go") && e.Data[crash.Field] != nil { // it is counted
			stacks++
		}
	}
	if stacks != 2 {
		t.Errorf("%d stacks are logged, want 2", stacks)
	}
	if _, err := r.runtime().Version(t.Context(), &runtime.VersionRequest{}); err != nil {
		t.Errorf("the daemon is gone: %v", err)
	}
}

func TestEdgeBoundsMessages(t *testing.T) {
	r := start(t, &handlers{stop: func(context.Context, *runtime.StopContainerRequest) (*runtime.StopContainerResponse, error) {
		return &runtime.StopContainerResponse{}, nil
	}})
	for _, tc := range []struct {
		size int
		code codes.Code
	}{{maxMessage - 64, codes.OK}, {maxMessage + 1, codes.ResourceExhausted}} {
		_, err := r.runtime().StopContainer(t.Context(), &runtime.StopContainerRequest{ContainerId: strings.Repeat("x", tc.size)})
		if status.Code(err) != tc.code {
			t.Errorf("request of %d bytes: %s, want %s", tc.size, status.Code(err), tc.code)
		}
	}
	_, err := r.runtime().ListContainers(t.Context(), &runtime.ListContainersRequest{}, grpc.MaxCallRecvMsgSize(2*maxMessage))
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("answer beyond the limit: %v", err)
	}
}

func TestDrainWaitsForCallsAndEndsStreams(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	watching := make(chan struct{})
	r := start(t, &handlers{
		stop: func(context.Context, *runtime.StopContainerRequest) (*runtime.StopContainerResponse, error) {
			close(entered)
			<-release
			return &runtime.StopContainerResponse{}, nil
		},
		watch: func(s pouchv1.Pouch_WatchPullsServer) error {
			close(watching)
			<-s.Context().Done()
			return s.Context().Err()
		},
	})
	var wg sync.WaitGroup
	var stopErr, watchErr error
	wg.Go(func() { _, stopErr = r.runtime().StopContainer(t.Context(), &runtime.StopContainerRequest{}) })
	wg.Go(func() {
		var s pouchv1.Pouch_WatchPullsClient
		if s, watchErr = pouchv1.NewPouchClient(r.conn).WatchPulls(t.Context(), &pouchv1.WatchPullsRequest{}); watchErr == nil {
			_, watchErr = s.Recv()
		}
	})
	<-entered
	<-watching
	r.end()
	select {
	case err := <-r.done:
		t.Fatalf("the daemon ended over a call in progress: %v", err)
	case <-time.After(50 * time.Millisecond): // long enough for a wrong end to show; a right one cannot come
	}
	close(release)
	if err := <-r.done; err != nil {
		t.Errorf("end: %v", err)
	}
	wg.Wait()
	if stopErr != nil {
		t.Errorf("the call in progress was cut off: %v", stopErr)
	}
	if status.Code(watchErr) != codes.Unavailable || !strings.Contains(watchErr.Error(), "ending") {
		t.Errorf("stream ended with %v", watchErr)
	}
	if _, err := os.Lstat(r.config.SocketPath()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}

func TestDrainIsBounded(t *testing.T) {
	entered := make(chan struct{})
	r := start(t, &handlers{stop: func(ctx context.Context, _ *runtime.StopContainerRequest) (*runtime.StopContainerResponse, error) {
		close(entered)
		<-ctx.Done()
		return nil, ctx.Err()
	}}, func(o *Options) { o.Config.CRI.DrainTimeout = Duration(20 * time.Millisecond) })
	go r.runtime().StopContainer(t.Context(), &runtime.StopContainerRequest{}) //nolint:errcheck // it is cut off
	<-entered
	r.end()
	if err := <-r.done; err != nil {
		t.Errorf("end: %v", err)
	}
	var said bool
	for _, e := range r.logs.AllEntries() {
		calls, _ := e.Data["calls"].(string)
		said = said || e.Level == logrus.WarnLevel && strings.Contains(calls, "StopContainer")
	}
	if !said {
		t.Errorf("the call that was cut off is not named")
	}
}

func TestMetrics(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	r := start(t, &handlers{stop: func(context.Context, *runtime.StopContainerRequest) (*runtime.StopContainerResponse, error) {
		return nil, errdefs.ErrNotFound
	}}, func(o *Options) { o.Config.Metrics = Metrics{Address: address, Pprof: true} })
	_, _ = r.runtime().StopContainer(t.Context(), &runtime.StopContainerRequest{})
	for path, want := range map[string]string{
		"/metrics":             `cri_pouch_rpc_total{code="NotFound",rpc="StopContainer"} 1`,
		"/debug/pprof/cmdline": os.Args[0],
	} {
		if got := get(t, "http://"+address+path); !strings.Contains(got, want) {
			t.Errorf("%s has no %s:\n%s", path, want, got)
		}
	}
	if got := get(t, "http://"+address+"/metrics"); !strings.Contains(got, `cri_pouch_rpc_duration_seconds_count{rpc="StopContainer"} 1`) ||
		!strings.Contains(got, `cri_pouch_rpc_in_flight{rpc="StopContainer"} 0`) {
		t.Errorf("metrics lack duration or calls in flight:\n%s", got)
	}
}

func TestReload(t *testing.T) {
	hup := make(chan os.Signal)
	next := make(chan Config, 1)
	r := start(t, &handlers{}, func(o *Options) {
		o.Reload = hup
		o.Load = func() (Config, error) {
			c := <-next
			if c.Root == "" {
				return c, errors.New("bad\nworse")
			}
			return c, nil
		}
	})
	c := r.config
	c.Log.Level = "error"
	next <- c
	hup <- nil
	next <- Config{}
	hup <- nil // taken only when the first reload is over
	hup2 := func() {
		next <- r.config
		hup <- nil
	}
	hup2()
	r.end()
	<-r.done
	level := r.logs.LastEntry()
	if level == nil || level.Message != "configuration reloaded" {
		t.Errorf("last line %v, want the third reload's", level)
	}
	var bad bool
	for _, e := range r.logs.AllEntries() {
		bad = bad || e.Level == logrus.ErrorLevel && strings.Contains(fmt.Sprint(e.Data[logrus.ErrorKey]), "bad; worse")
	}
	if !bad {
		t.Error("a broken configuration is not reported")
	}
}

func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "20000")
	t.Setenv("WATCHDOG_PID", fmt.Sprint(os.Getpid()))
	r := start(t, &handlers{})
	if v := os.Getenv("NOTIFY_SOCKET") + os.Getenv("WATCHDOG_USEC"); v != "" {
		t.Errorf("children would see the manager's environment: %q", v)
	}
	next := func() string {
		t.Helper()
		b := make([]byte, 4096)
		if err := l.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		n, err := l.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	if got := next(); !strings.HasPrefix(got, "READY=1\n") {
		t.Errorf("first told %q, want READY=1", got)
	}
	if got := next(); got != "WATCHDOG=1" {
		t.Errorf("then told %q, want WATCHDOG=1", got)
	}
	r.end()
	for {
		got := next()
		if strings.HasPrefix(got, "STOPPING=1") {
			return
		}
		if got != "WATCHDOG=1" {
			t.Fatalf("told %q, want STOPPING=1", got)
		}
	}
}

func get(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var b strings.Builder
	if err := resp.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}
