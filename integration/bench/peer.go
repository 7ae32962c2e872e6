package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/lab"
)

// Limits of the peer's start and end.
const (
	peerReady = 30 * time.Second
	peerEnd   = 30 * time.Second
)

// peer is a containerd with everything of its own below one folder; network, images and cgroup parent are the lab's.
type peer struct {
	lab  *lab.Lab
	dir  string
	cmd  *exec.Cmd
	gone chan struct{}
	conn *grpc.ClientConn
}

// peerConfig leaves out what the comparison does not need. The pause container's oom_score_adj of -998 is restricted, since a
// machine may lack CAP_SYS_RESOURCE.
const peerConfig = `version = 4
root = '%[1]s/root'
state = '%[1]s/state'
imports = []
disabled_plugins = ['io.containerd.nri.v1.nri', 'io.containerd.tracing.processor.v1.otlp', 'io.containerd.internal.v1.tracing']

[plugins.'io.containerd.server.v1.grpc']
  address = '%[1]s/c.sock'
[plugins.'io.containerd.server.v1.ttrpc']
  address = '%[1]s/c.sock.ttrpc'
[plugins.'io.containerd.shim.v1.manager']
  socket_dir = '%[1]s/s'
[plugins.'io.containerd.internal.v1.opt']
  path = '%[1]s/opt'
[plugins.'io.containerd.image-verifier.v1.bindir']
  bin_dir = '%[1]s/image-verifier'
[plugins.'io.containerd.cri.v1.images'.registry]
  config_path = '%[2]s'
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '%[3]s'
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  cdi_spec_dirs = ['%[1]s/cdi']
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = 'io.containerd.runc.v2'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  Root = '%[1]s/runc'
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ['%[4]s']
  conf_dir = '%[5]s'
`

// startPeer starts containerd and waits until it answers. On an error nothing is left of it.
func startPeer(ctx context.Context, l *lab.Lab, binaries string) (_ *peer, err error) {
	p := &peer{lab: l, dir: filepath.Join(l.Dir, "peer")}
	if err := os.MkdirAll(p.dir, 0o711); err != nil {
		return nil, err
	}
	config := filepath.Join(p.dir, "config.toml")
	text := fmt.Sprintf(peerConfig, p.dir, l.RegistryDir(), imagePause, l.CNIBin, l.CNIConfDir())
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(p.dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p.cmd = exec.Command(filepath.Join(binaries, "containerd"), "-c", config)
	p.cmd.Env = append(os.Environ(), "PATH="+binaries+":"+os.Getenv("PATH")) // the shim looks for runc there
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.Dir = log, log, p.dir
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a signal to this program is not for containerd
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start containerd: %w", err)
	}
	p.gone = make(chan struct{})
	go func() { _ = p.cmd.Wait(); close(p.gone) }()
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("%w; its log ends with:\n%s", err, p.logTail(3000)), p.close(context.WithoutCancel(ctx)))
		}
	}()
	p.conn, err = grpc.NewClient("unix://"+filepath.Join(p.dir, "c.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
	if err != nil {
		return nil, err
	}
	return p, p.awaitReady(ctx)
}

// awaitReady asks until pods can be run: containerd tells nobody.
func (p *peer) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, peerReady)
	defer cancel()
	client := runtime.NewRuntimeServiceClient(p.conn)
	for {
		r, err := client.Status(ctx, &runtime.StatusRequest{})
		met := map[string]bool{}
		for _, c := range r.GetStatus().GetConditions() {
			met[c.Type] = c.Status
		}
		if met[runtime.RuntimeReady] && met[runtime.NetworkReady] {
			return nil
		}
		select {
		case <-p.gone:
			return fmt.Errorf("containerd ended: %s", p.cmd.ProcessState)
		case <-ctx.Done():
			return fmt.Errorf("containerd did not become ready (%v, %v): %w", r, err, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (p *peer) target() *target {
	return &target{
		name: "containerd", version: ContainerdVersion + ", runc " + RuncVersion, runtime: runtime.NewRuntimeServiceClient(p.conn),
		images: runtime.NewImageServiceClient(p.conn), cgroup: p.lab.CgroupParent() + "/containerd", processes: p.processes,
	}
}

// processes are containerd, its shims, and the pods' pause processes.
func (p *peer) processes() ([]int, error) {
	shims, err := lab.WithCommand(func(args []string) bool { return p.isShim(args) || args[0] == pauseProgram })
	return append(shims, p.cmd.Process.Pid), err
}

// isShim knows a shim by the daemon's address in its arguments.
func (p *peer) isShim(args []string) bool {
	for _, a := range args[1:] {
		if a == filepath.Join(p.dir, "c.sock") {
			return filepath.Base(args[0]) == "containerd-shim-runc-v2"
		}
	}
	return false
}

// close takes the pods down, ends containerd, and ends whatever would not go by itself. The lab's end removes the folder with
// its mounts, and the cgroups.
func (p *peer) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 4*peerEnd)
	defer cancel()
	var errs []error
	if p.conn != nil {
		errs = append(errs, p.removePods(ctx), p.conn.Close())
	}
	errs = append(errs, p.end(ctx))
	left, err := lab.WithCommand(p.isShim)
	errs = append(errs, err)
	for _, pid := range left {
		errs = append(errs, lab.KillProcess(ctx, pid))
	}
	// CNI's cache lies outside; of pods that went in order nothing is there.
	cached, _ := filepath.Glob("/var/lib/cni/results/" + p.lab.Name + "-*")
	for _, file := range cached {
		errs = append(errs, os.Remove(file))
	}
	return errors.Join(errs...)
}

func (p *peer) removePods(ctx context.Context) error {
	t := p.target()
	r, err := t.runtime.ListPodSandbox(ctx, &runtime.ListPodSandboxRequest{})
	if err != nil {
		return nil // it is gone: what it left is ended below
	}
	var errs []error
	for _, i := range r.Items {
		p := &pod{t: t, id: i.Id}
		errs = append(errs, p.stopSandbox(ctx), p.removeSandbox(ctx))
	}
	return errors.Join(errs...)
}

func (p *peer) end(ctx context.Context) error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.gone:
		return nil
	case <-time.After(peerEnd):
		return lab.KillProcess(ctx, p.cmd.Process.Pid)
	}
}

func (p *peer) logTail(bytes int) string {
	b, err := os.ReadFile(filepath.Join(p.dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-bytes):])
}
