package cri

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"github.com/cri-pouch/cri-pouch/internal/crash"
	"github.com/cri-pouch/cri-pouch/internal/failpoint"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

// StreamBackend gives what package cri/stream calls when a client has opened a stream.
func (s *Service) StreamBackend() *StreamBackend { return &StreamBackend{s} }

// StreamBackend connects the clients of streams with containers and pods. It is cri/stream's Backend.
type StreamBackend struct{ s *Service }

// Exec runs a command in a container with the client's streams and waits for its end. When ctx ends, the command is
// killed with everything that it started.
func (b *StreamBackend) Exec(ctx context.Context, id string, cmd []string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	c, err := b.s.runningContainer(id)
	if err != nil {
		return err
	}
	x, err := b.s.newExecProcess(c, cmd, in != nil, errOut != nil, tty)
	if err != nil {
		return err
	}
	defer x.pipes.close()
	if _, err := b.s.Runtime.Exec(ctx, x.req); err != nil {
		return x.failure(ctx, err)
	}
	defer x.forget(ctx)
	failpoint.Hit("exec.started")
	x.pipes.connect(in, out, errOut)
	crash.Go(b.s.Log, "follow the size of a client's terminal", func() { x.follow(ctx, resize) })
	exit, err := b.s.Runtime.Wait(ctx, x.req.ID, x.req.ExecID)
	if err != nil {
		x.kill(ctx)
		return x.failure(ctx, err)
	}
	x.pipes.finish()
	if exit.Code != 0 { // cri-streaming looks for this very type, not wrapped
		return utilexec.CodeExitError{Err: fmt.Errorf("exit code %d", exit.Code), Code: int(exit.Code)}
	}
	return nil
}

// execProcess is one exec'd process with the FIFOs of its streams.
type execProcess struct {
	s     *Service
	req   task.ExecRequest
	pipes *pipes
}

// newExecProcess makes the FIFOs and says what the shim is to run.
func (s *Service) newExecProcess(c *container, cmd []string, stdin, stderr, tty bool) (*execProcess, error) {
	sp, err := s.appSpec(c.id)
	if err != nil {
		return nil, err
	}
	process, err := json.Marshal(s.Spec.Exec(sp, cmd, tty))
	if err != nil {
		return nil, fmt.Errorf("encode process of exec in container %s: %w", c.id, err)
	}
	id := newID()
	p, err := newPipes(filepath.Join(s.StateDir, "exec", id), s.removeStreamDir, stdin, stderr && !tty)
	if err != nil {
		return nil, fmt.Errorf("exec in container %s: %w", c.id, err)
	}
	x := &execProcess{s: s, pipes: p, req: task.ExecRequest{ID: c.id, ExecID: id, Process: process, Terminal: tty}}
	x.req.Stdin, x.req.Stdout, x.req.Stderr = p.paths()
	return x, nil
}

// follow sets the terminal's size whenever the client's changes. Without a terminal it only takes what comes: it stands in
// the way of the other streams.
func (x *execProcess) follow(ctx context.Context, resize <-chan remotecommand.TerminalSize) {
	followSize(ctx, resize, func(width, height uint32) {
		if !x.req.Terminal {
			return
		}
		if err := x.s.Runtime.ResizePty(ctx, x.req.ID, x.req.ExecID, width, height); err != nil && ctx.Err() == nil {
			x.s.Log.WithField("container", x.req.ID).WithError(err).Debug("cannot resize the terminal of an exec")
		}
	})
}

// followSize calls set for each size that the client sends, until ctx or the stream ends.
func followSize(ctx context.Context, resize <-chan remotecommand.TerminalSize, set func(width, height uint32)) {
	for {
		select {
		case size, ok := <-resize:
			if !ok {
				return
			}
			set(uint32(size.Width), uint32(size.Height))
		case <-ctx.Done():
			return
		}
	}
}

// failure says why an exec has failed; the end of a stream's context has a cause.
func (x *execProcess) failure(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("exec in container %s was ended: %w", x.req.ID, context.Cause(ctx))
	}
	return prefixed("exec in container "+x.req.ID, err)
}

// kill ends the process with its children and waits until it is gone.
func (x *execProcess) kill(ctx context.Context) { x.s.killExec(ctx, x.req.ID, x.req.ExecID) }

func (x *execProcess) forget(ctx context.Context) { x.s.forgetExec(ctx, x.req.ID, x.req.ExecID) }
