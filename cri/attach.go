package cri

import (
	"context"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
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

// Attach connects the client to the container's first process until that ends.
func (b *StreamBackend) Attach(ctx context.Context, id string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	return errdefs.ErrNotImplemented
}
