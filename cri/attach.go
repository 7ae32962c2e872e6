package cri

import (
	"context"
	"fmt"
	"io"
	"path/filepath"

	"github.com/containerd/errdefs"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"github.com/cri-pouch/cri-pouch/internal/crash"
	"github.com/cri-pouch/cri-pouch/internal/failpoint"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

// Attach gives a URL under which a client attaches to a running container, once and within a minute.
func (s *Service) Attach(_ context.Context, r *runtime.AttachRequest) (*runtime.AttachResponse, error) {
	if err := checkStreams("attach to", r.GetContainerId(), r); err != nil {
		return nil, err
	}
	c, err := s.attachable(r.GetContainerId(), r.GetStdin(), r.GetTty())
	if err != nil {
		return nil, err
	}
	url, err := s.streams.Attach(&runtime.AttachRequest{
		ContainerId: c.id, Tty: r.GetTty(), Stdin: r.GetStdin(), Stdout: r.GetStdout(), Stderr: r.GetStderr(),
	})
	if err != nil {
		return nil, fmt.Errorf("attach to container %s: %w", c.id, err)
	}
	return &runtime.AttachResponse{Url: url}, nil
}

// attachable finds a running container and insists that it has what the client wants to attach to.
func (s *Service) attachable(id string, stdin, tty bool) (*container, error) {
	c, err := s.runningContainer(id)
	if err != nil {
		return nil, err
	}
	config := c.view().rec.Config
	switch {
	case stdin && !config.Stdin:
		return nil, fmt.Errorf("attach to container %s: it was created without stdin, attach to its output only: %w", c.id, errdefs.ErrFailedPrecondition)
	case tty && !config.TTY:
		return nil, fmt.Errorf("attach to container %s: it was created without a terminal, attach without one: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	return c, nil
}

// Attach connects the client to the container's first process until that ends. The container goes on when ctx ends, or when
// the client reads too slowly; then the error says so.
func (b *StreamBackend) Attach(ctx context.Context, id string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	c, err := b.s.attachable(id, in != nil, tty)
	if err != nil {
		return err
	}
	terminal := c.view().rec.Config.TTY
	p, err := newPipes(filepath.Join(b.s.StateDir, "exec", newID()), b.s.removeStreamDir, in != nil, errOut != nil && !terminal)
	if err != nil {
		return fmt.Errorf("attach to container %s: %w", id, err)
	}
	defer p.close()
	req := task.AttachRequest{ID: id}
	req.Stdin, req.Stdout, req.Stderr = p.paths()
	wait, err := b.s.Runtime.Attach(ctx, req)
	if err != nil {
		return attachFailure(ctx, id, err)
	}
	failpoint.Hit("attach.connected")
	p.connect(in, out, errOut)
	setSize := func(width, height uint32) {
		if !terminal {
			return
		}
		if err := b.s.Runtime.ResizePty(ctx, id, "", width, height); err != nil && ctx.Err() == nil {
			b.s.Log.WithField("container", id).WithError(err).Debug("cannot resize a terminal")
		}
	}
	crash.Go(b.s.Log, "follow the size of a client's terminal", func() { followSize(ctx, resize, setSize) })
	if err := wait(); err != nil {
		return attachFailure(ctx, id, err)
	}
	p.finish()
	return nil
}

func attachFailure(ctx context.Context, id string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("attach to container %s was ended: %w", id, context.Cause(ctx))
	}
	return fmt.Errorf("attach to container %s: %w", id, err)
}
