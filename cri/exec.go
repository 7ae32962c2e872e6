package cri

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Streams gives the URLs under which clients open streams (package cri/stream).
type Streams interface {
	Exec(*runtime.ExecRequest) (url string, err error)
	Attach(*runtime.AttachRequest) (url string, err error)
	PortForward(*runtime.PortForwardRequest) (url string, err error)
}

// Exec gives a URL under which a client runs a command in a running container, once and within a minute.
func (s *Service) Exec(_ context.Context, r *runtime.ExecRequest) (*runtime.ExecResponse, error) {
	if len(r.GetCmd()) == 0 {
		return nil, fmt.Errorf("exec in container %s: the command is empty: %w", r.GetContainerId(), errdefs.ErrInvalidArgument)
	}
	if err := checkStreams("exec in", r.GetContainerId(), r); err != nil {
		return nil, err
	}
	c, err := s.runningContainer(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	url, err := s.streams.Exec(&runtime.ExecRequest{
		ContainerId: c.id, Cmd: r.GetCmd(), Tty: r.GetTty(), Stdin: r.GetStdin(), Stdout: r.GetStdout(), Stderr: r.GetStderr(),
	})
	if err != nil {
		return nil, fmt.Errorf("exec in container %s: %w", c.id, err)
	}
	return &runtime.ExecResponse{Url: url}, nil
}

// checkStreams refuses combinations that CRI excludes (ExecRequest and AttachRequest of api.proto).
func checkStreams(what, id string, r interface {
	GetTty() bool
	GetStdin() bool
	GetStdout() bool
	GetStderr() bool
}) error {
	switch {
	case !r.GetStdin() && !r.GetStdout() && !r.GetStderr():
		return fmt.Errorf("%s container %s: ask for at least one of stdin, stdout and stderr: %w", what, id, errdefs.ErrInvalidArgument)
	case r.GetTty() && r.GetStderr():
		return fmt.Errorf("%s container %s: a terminal has no stderr of its own, ask for tty or stderr: %w", what, id, errdefs.ErrInvalidArgument)
	}
	return nil
}
