package cri

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/shim/task"
)

// execCleanup bounds what follows the end of an ExecSync.
const execCleanup = 10 * time.Second

// ExecSync runs a command in a running container and gives its output and exit code. Past its timeout (seconds, 0: none)
// the command is killed and the error is DeadlineExceeded.
func (s *Service) ExecSync(ctx context.Context, r *runtime.ExecSyncRequest) (*runtime.ExecSyncResponse, error) {
	if len(r.GetCmd()) == 0 {
		return nil, fmt.Errorf("exec in container %s: the command is empty: %w", r.GetContainerId(), errdefs.ErrInvalidArgument)
	}
	if r.GetTimeout() < 0 {
		return nil, fmt.Errorf("exec in container %s: the timeout of %d s is negative: %w", r.GetContainerId(), r.GetTimeout(), errdefs.ErrInvalidArgument)
	}
	c, err := s.runningContainer(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	sp, err := s.appSpec(c.id)
	if err != nil {
		return nil, err
	}
	x, err := s.newExec(c, s.Spec.Exec(sp, r.GetCmd(), false), execOutputMax)
	if err != nil {
		return nil, err
	}
	defer x.close()
	if d := durationOf(r.GetTimeout()); d > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	return x.run(ctx)
}

// runningContainer finds a container and insists that it runs.
func (s *Service) runningContainer(id string) (*container, error) {
	c, err := s.index.container(id)
	if err != nil {
		return nil, err
	}
	if v := c.view(); v.status != task.Running && v.status != task.Paused {
		return nil, fmt.Errorf("container %s is not running but %s: %w", c.id, v.status, errdefs.ErrFailedPrecondition)
	}
	return c, nil
}

// syncExec is one ExecSync under way.
type syncExec struct {
	s              *Service
	container      *container
	req            task.ExecRequest
	dir            string
	stdout, stderr *fifo
	kept           *budget
}

// newExec makes the FIFOs of an exec; of its output, both streams together, outputMax bytes are kept.
func (s *Service) newExec(c *container, p *specs.Process, outputMax int) (_ *syncExec, err error) {
	process, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("encode process of exec in container %s: %w", c.id, err)
	}
	id := newID()
	x := &syncExec{s: s, container: c, dir: filepath.Join(s.StateDir, "exec", id), kept: s.execOutputs.budget(c.id, outputMax)}
	if err := os.MkdirAll(x.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make folder of exec in container %s: %w", c.id, err)
	}
	defer func() {
		if err != nil {
			x.close()
		}
	}()
	if x.stdout, err = newFIFO(filepath.Join(x.dir, "stdout")); err != nil {
		return nil, err
	}
	if x.stderr, err = newFIFO(filepath.Join(x.dir, "stderr")); err != nil {
		return nil, err
	}
	x.req = task.ExecRequest{ID: c.id, ExecID: id, Process: process, Stdout: x.stdout.path, Stderr: x.stderr.path}
	return x, nil
}

// run starts the process, collects its output and waits for its end.
func (x *syncExec) run(ctx context.Context) (*runtime.ExecSyncResponse, error) {
	if _, err := x.s.Runtime.Exec(ctx, x.req); err != nil {
		return nil, x.failure(ctx, err)
	}
	defer x.forget(ctx)
	x.stdout.collect(x.kept)
	x.stderr.collect(x.kept)
	exit, err := x.s.Runtime.Wait(ctx, x.req.ID, x.req.ExecID)
	if err != nil {
		x.kill(ctx)
		return nil, x.failure(ctx, err)
	}
	// What the process wrote is in the FIFOs; what its background children may write later does not belong to it.
	return &runtime.ExecSyncResponse{Stdout: x.stdout.finish(), Stderr: x.stderr.finish(), ExitCode: int32(exit.Code)}, nil
}

// failure names the command; a timeout is DeadlineExceeded, which the kubelet's probes look for.
func (x *syncExec) failure(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("exec in container %s did not end in time and was killed: %w", x.req.ID, ctx.Err())
	}
	return prefixed("exec in container "+x.req.ID, err)
}

// prefixed says what failed before an error that does not begin with that: the shim may have said it.
func prefixed(what string, err error) error {
	if strings.HasPrefix(err.Error(), what+": ") {
		return err
	}
	return fmt.Errorf("%s: %w", what, err)
}

// kill ends the process with its children and waits until it is gone.
func (x *syncExec) kill(ctx context.Context) { x.s.killExec(ctx, x.req.ID, x.req.ExecID) }

func (x *syncExec) forget(ctx context.Context) { x.s.forgetExec(ctx, x.req.ID, x.req.ExecID) }

// killExec ends an exec'd process with its children and waits until it is gone.
func (s *Service) killExec(ctx context.Context, id, execID string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), execCleanup)
	defer cancel()
	if err := s.Runtime.KillExec(ctx, id, execID, uint32(syscall.SIGKILL), true); err != nil {
		if !gone(err) {
			s.Log.WithField("container", id).WithError(err).Warn("cannot kill an exec that nobody waits for")
		}
		return
	}
	_, _ = s.Runtime.Wait(ctx, id, execID)
}

// forgetExec lets the shim forget an exec'd process that has ended.
func (s *Service) forgetExec(ctx context.Context, id, execID string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), execCleanup)
	defer cancel()
	if err := s.Runtime.DeleteExec(ctx, id, execID); err != nil && !errdefs.IsNotFound(err) {
		s.Log.WithField("container", id).WithError(err).Warn("cannot forget an ended exec")
	}
}

func (x *syncExec) close() {
	for _, f := range []*fifo{x.stdout, x.stderr} {
		if f != nil {
			f.close()
		}
	}
	x.kept.release()
	x.s.removeStreamDir(x.dir)
}
