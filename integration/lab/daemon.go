package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
)

// Daemon is the lab's `cri-pouch serve`. It can be started, ended and started again; its clients stay usable.
type Daemon struct {
	Runtime runtime.RuntimeServiceClient
	Images  runtime.ImageServiceClient
	Pouch   pouchv1.PouchClient
	Log     string // file of its stdout and stderr, over all starts

	lab  *Lab
	conn *grpc.ClientConn
	cmd  *exec.Cmd
	gone chan struct{} // closed when cmd has ended
}

func newDaemon(l *Lab) *Daemon { return &Daemon{lab: l, Log: filepath.Join(l.Dir, "daemon.log")} }

// Args is the command line of the daemon without the program.
func (d *Daemon) Args() []string {
	l := d.lab
	return []string{
		"serve", "--config", filepath.Join(l.Dir, "config.toml"), "--root", l.RootDir(), "--state", l.StateDir(),
		"--socket", l.Socket(), "--cni-conf-dir", l.CNIConfDir(), "--cni-bin-dir", l.CNIBin, "--registry-config-dir", l.RegistryDir(),
	}
}

// Start starts the daemon and returns when it has said through sd_notify(3) that it is ready. env is added to its
// environment for this start only. An error carries the end of the daemon's log.
func (d *Daemon) Start(ctx context.Context, env ...string) error {
	if d.Running() {
		return errors.New("the daemon runs already")
	}
	if err := d.lab.writeConfig(); err != nil {
		return err
	}
	ready, path, err := d.listenNotify()
	if err != nil {
		return err
	}
	defer ready.Close()
	log, err := os.OpenFile(d.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(d.lab.Binary, d.Args()...)
	cmd.Env = append(append(os.Environ(), "NOTIFY_SOCKET="+path), append(append([]string{}, d.lab.Env...), env...)...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, d.lab.Dir
	// A signal to the test's process group is not for the daemon: the lab ends it in its own order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", d.lab.Binary, err)
	}
	d.cmd, d.gone = cmd, make(chan struct{})
	go func() { _ = cmd.Wait(); close(d.gone) }()
	if err := d.awaitReady(ctx, ready); err != nil {
		if d.Running() {
			_ = d.Kill(context.WithoutCancel(ctx))
		}
		return fmt.Errorf("%w; the daemon's log ends with:\n%s", err, d.LogTail(4000))
	}
	return d.connect()
}

func (d *Daemon) listenNotify() (*net.UnixConn, string, error) {
	path := filepath.Join(d.lab.Dir, "notify.sock")
	if err := os.RemoveAll(path); err != nil {
		return nil, "", err
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	return conn, path, err
}

func (d *Daemon) awaitReady(ctx context.Context, conn *net.UnixConn) error {
	said := make(chan error, 1)
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			if err != nil || bytes.Contains(buf[:n], []byte("READY=1")) {
				said <- err
				return
			}
		}
	}()
	select {
	case err := <-said:
		return err
	case <-d.gone:
		return fmt.Errorf("the daemon ended before it was ready: %s", d.cmd.ProcessState)
	case <-ctx.Done():
		return fmt.Errorf("the daemon did not become ready: %w", ctx.Err())
	}
}

func (d *Daemon) connect() error {
	if d.conn != nil {
		// The old connection may be waiting out a back-off from the time without a daemon.
		d.conn.ResetConnectBackoff()
		return nil
	}
	// The kubelet's own limit of a message.
	conn, err := grpc.NewClient("unix://"+d.lab.Socket(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
	if err != nil {
		return err
	}
	d.conn = conn
	d.Runtime, d.Images, d.Pouch = runtime.NewRuntimeServiceClient(conn), runtime.NewImageServiceClient(conn), pouchv1.NewPouchClient(conn)
	return nil
}

// Running says whether the daemon's process is there.
func (d *Daemon) Running() bool {
	if d.gone == nil {
		return false
	}
	select {
	case <-d.gone:
		return false
	default:
		return true
	}
}

// PID is the daemon's process.
func (d *Daemon) PID() int { return d.cmd.Process.Pid }

// Gone is closed when the daemon of the last start has ended.
func (d *Daemon) Gone() <-chan struct{} { return d.gone }

// ExitState is how the daemon of the last start ended.
func (d *Daemon) ExitState() *os.ProcessState { return d.cmd.ProcessState }

// Kill ends the daemon by SIGKILL; containers go on.
func (d *Daemon) Kill(ctx context.Context) error { return d.signal(ctx, syscall.SIGKILL) }

// Terminate ends the daemon by SIGTERM; containers go on.
func (d *Daemon) Terminate(ctx context.Context) error { return d.signal(ctx, syscall.SIGTERM) }

func (d *Daemon) signal(ctx context.Context, sig syscall.Signal) error {
	if !d.Running() {
		return nil
	}
	if err := d.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-d.gone:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the daemon (pid %d) did not end after %s: %w", d.PID(), sig, ctx.Err())
	}
}

// LogTail gives the last bytes of the daemon's log.
func (d *Daemon) LogTail(bytes int) string {
	b, err := os.ReadFile(d.Log)
	if err != nil {
		return err.Error()
	}
	if len(b) > bytes {
		b = b[len(b)-bytes:]
	}
	return string(b)
}

// Shims gives the pids of the processes that the daemon left running for its containers: the shim, and keepers and
// holders of pouch-init. Each is known by the lab's folder in its command line.
func (d *Daemon) Shims() ([]int, error) {
	return WithCommand(func(args []string) bool {
		name := filepath.Base(args[0])
		return (name == "containerd-shim-pouch-v2" || name == "pouch-init") && strings.Contains(strings.Join(args, " "), d.lab.Dir)
	})
}

// end stops the daemon, then its shim: a shim stays by design, so it is killed.
func (d *Daemon) end(ctx context.Context) error {
	var errs []error
	if d.Running() {
		polite, cancel := context.WithTimeout(ctx, 15*time.Second)
		if err := d.Terminate(polite); err != nil {
			errs = append(errs, err, d.Kill(ctx))
		}
		cancel()
	}
	if d.conn != nil {
		errs = append(errs, d.conn.Close())
	}
	pids, err := d.Shims()
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, pid := range pids {
		if err := KillProcess(ctx, pid); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
