package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"reflect"
	"time"

	containerdlog "github.com/containerd/log"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
	"github.com/cri-pouch/cri-pouch/internal/crash"
	"github.com/cri-pouch/cri-pouch/internal/exhaustion"
	"github.com/cri-pouch/cri-pouch/internal/failpoint"
)

// Options are what one daemon runs with.
type Options struct {
	Config  Config
	Version string // of the program
	Log     *logrus.Entry
	// Reload brings SIGHUP; nil: never.
	Reload <-chan os.Signal
	// Load reads the configuration again for Reload.
	Load func() (Config, error)
	// Ready is called once requests are answered; nil: nobody.
	Ready func(socket string)
}

// service is what is served: cri.Service, or a fake of it.
type service interface {
	runtime.RuntimeServiceServer
	runtime.ImageServiceServer
	pouchv1.PouchServer
}

// stopLimit is how long the daemon waits, in all, for handlers that it has cut off.
const stopLimit = 5 * time.Second

// Serve runs the daemon until ctx ends, and leaves containers and shim running when it returns. Its order is: lock, bind, engine,
// records, shim, recovery, socket, ready. The error says what could not be set up, or what did not end in order.
func Serve(ctx context.Context, o Options) error {
	// Rooms say the mode of what they make; what the shell's umask happened to be must not change it.
	unix.Umask(0o022)
	tell := newNotifier(o.Log)
	registry := newRegistry(o.Version)
	o.Log.Logger.AddHook(crash.Counter{Count: newPanicCounter(registry)})
	// containerd's libraries log to the context's logger, and where they have no context to their own default.
	containerdlog.L = o.Log
	ctx = containerdlog.WithLogger(ctx, o.Log)
	unlock, err := claim(o.Config)
	if err != nil {
		return err
	}
	defer unlock()
	failpoint.Hit("server.locked")
	if err := bind(o.Config, o.Version); err != nil {
		return err
	}

	tell.tell("STATUS=opening the store")
	rooms, err := openRooms(ctx, o, registry)
	if err != nil {
		return err
	}
	failpoint.Hit("server.opened")
	tell.tell("STATUS=recovering")
	if err = rooms.recover(ctx); err == nil {
		failpoint.Hit("server.recovered")
		ready := o.Ready
		o.Ready = func(socket string) {
			rooms.service.CollectNetwork()
			if ready != nil {
				ready(socket)
			}
		}
		err = serve(ctx, o, rooms.service, registry, tell)
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = nil // asked to end before it was ready
	}
	return errors.Join(err, rooms.close())
}

// claim makes root and state and locks both.
func claim(c Config) (unlock func(), err error) {
	var locks []*os.File
	unlock = func() {
		for _, f := range locks {
			f.Close()
		}
	}
	for _, d := range []struct{ dir, key string }{{c.Root, "root"}, {c.State, "state"}} {
		f, err := func() (*os.File, error) {
			if err := makeFolder(d.dir); err != nil {
				return nil, err
			}
			return lock(d.dir, d.key)
		}()
		if err != nil {
			unlock()
			return nil, err
		}
		locks = append(locks, f)
	}
	return unlock, nil
}

// serve answers requests until ctx ends, then drains.
func serve(ctx context.Context, o Options, svc service, registry *prometheus.Registry, tell *notifier) error {
	ending, end := context.WithCancel(context.Background())
	defer end()
	e := newEdge(ending, o.Log, newRPCMetrics(registry))
	srv := grpc.NewServer(e.options()...)
	runtime.RegisterRuntimeServiceServer(srv, svc)
	runtime.RegisterImageServiceServer(srv, svc)
	pouchv1.RegisterPouchServer(srv, svc)

	stopMetrics, err := serveMetrics(o.Config.Metrics, registry, o.Log)
	if err != nil {
		return err
	}
	defer func() {
		stop, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := stopMetrics(stop); err != nil {
			o.Log.WithError(err).Warn("metrics listener did not end in order")
		}
	}()
	socket := o.Config.SocketPath()
	l, err := listen(socket, o.Config.CRI.SocketGroup)
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	crash.Go(o.Log, "serve CRI", func() {
		failed <- crash.Try(o.Log, "serve CRI", func() error { return srv.Serve(exhaustion.Listen(l, "the CRI socket", o.Log)) })
	})

	watching, stopWatch := context.WithCancel(ctx)
	defer stopWatch()
	alive := func(ctx context.Context) error { return answers(ctx, socket) }
	crash.Go(o.Log, "tell the service manager", crash.Keep(watching, o.Log, "tell the service manager", func() { tell.watch(watching, alive) }))
	o.Log.WithFields(logrus.Fields{"socket": socket, "version": o.Version}).Info("ready")
	tell.tell("READY=1\nSTATUS=serving on " + socket)
	if o.Ready != nil {
		o.Ready(socket)
	}
	failpoint.Hit("server.ready")
	for {
		select {
		case <-ctx.Done():
			tell.tell("STOPPING=1\nSTATUS=ending; containers go on")
			end()
			return drain(srv, e, time.Duration(o.Config.CRI.DrainTimeout), o.Log)
		case err := <-failed:
			return fmt.Errorf("serve on %s: %w", socket, err)
		case <-o.Reload:
			reload(o)
		}
	}
}

// drain lets calls in progress finish within limit, then cuts them off. What was cut off and goes on in the background
// is for the next recovery.
func drain(srv *grpc.Server, e *edge, limit time.Duration, log *logrus.Entry) error {
	if calls := e.inProgress(); calls != "" {
		log.WithField("calls", calls).Info("ending, waiting for calls in progress")
	}
	done := make(chan struct{})
	crash.Go(log, "end the calls", func() { srv.GracefulStop(); close(done) })
	select {
	case <-done:
		return nil
	case <-time.After(limit):
	}
	log.WithField("calls", e.inProgress()).Warn("calls are cut off, their time to end is over")
	crash.Go(log, "cut off the calls", srv.Stop)
	select {
	case <-done:
		return nil
	case <-time.After(stopLimit):
		return fmt.Errorf("calls did not end when they were cancelled: %s", e.inProgress())
	}
}

// answers is nil when the daemon answers on its own socket.
func answers(ctx context.Context, socket string) error {
	conn, err := grpc.NewClient("passthrough:///self", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}))
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = runtime.NewRuntimeServiceClient(conn).Version(ctx, &runtime.VersionRequest{})
	return err
}

// reload takes over what can change while the daemon runs: the log's level and format. Registry configuration needs no
// reload, it is read for each pull.
func reload(o Options) {
	if o.Load == nil {
		return
	}
	c, err := o.Load()
	if err != nil {
		o.Log.WithError(errors.New(oneLine(err))).Error("configuration is not reloaded, the former one stays")
		return
	}
	applyLog(o.Log.Logger, c.Log)
	running := o.Config
	running.Log = c.Log
	if !reflect.DeepEqual(running, c) {
		o.Log.Warn("configuration reloaded; keys other than log.* have changed, they need a restart of the daemon")
		return
	}
	o.Log.Info("configuration reloaded")
}
