package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/cri-pouch/cri-pouch/integration/lab"
)

// program is one of the cluster's processes.
type program struct {
	name string
	log  string
	cmd  *exec.Cmd
	gone chan struct{} // closed when it has ended
}

// run starts a program of the cluster's binaries; its output is appended to its log.
func (c *Cluster) run(name string, args ...string) (*program, error) {
	p := &program{name: name, log: filepath.Join(c.Dir, name+".log"), gone: make(chan struct{})}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p.cmd = exec.Command(filepath.Join(c.Binaries, name), args...)
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.Dir = log, log, c.Dir
	// A signal to the caller's process group is not for it: the cluster ends it in its own order.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s (make kubernetes builds it): %w", name, err)
	}
	c.logs = append(c.logs, p.log)
	go func() { _ = p.cmd.Wait(); close(p.gone) }()
	return p, nil
}

// start is run for a program that stays until the cluster is closed.
func (c *Cluster) start(name string, args ...string) (*program, error) {
	p, err := c.run(name, args...)
	if err == nil {
		c.undo.Add("end "+name, p.end)
	}
	return p, err
}

// end asks the program to end, and kills it where it does not.
func (p *program) end(ctx context.Context) error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end %s: %w", p.name, err)
	}
	select {
	case <-p.gone:
		return nil
	case <-time.After(10 * time.Second):
		return lab.KillProcess(ctx, p.cmd.Process.Pid)
	}
}

// awaits asks ok again and again until it is content: no event tells when a program listens. It fails early when the
// program ends.
func (p *program) awaits(ctx context.Context, what string, ok func(context.Context) error) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ok(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-p.gone:
			return fmt.Errorf("%s ended before %s: %s", p.name, what, p.cmd.ProcessState)
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w (%w)", what, ctx.Err(), err)
		}
	}
}
