package cri

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/containerd/errdefs"

	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
	"github.com/cri-pouch/cri-pouch/internal/boundlog"
	"github.com/cri-pouch/cri-pouch/internal/richrun"
	"github.com/cri-pouch/cri-pouch/richcontainer"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

// InitLog gives what pid 1 of a rich container has printed itself, as long as the container's bundle is there.
func (s *Service) InitLog(_ context.Context, r *pouchv1.InitLogRequest) (*pouchv1.InitLogResponse, error) {
	c, err := s.index.container(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	v := c.view()
	if err := printsApart(v); err != nil {
		return nil, err
	}
	text, err := boundlog.Read(filepath.Join(s.bundleDir(c.id), richrun.InitLog), richrun.InitLogMax)
	switch {
	case errors.Is(err, fs.ErrNotExist) && v.status == task.Created:
		return nil, fmt.Errorf("the init of container %s has not been started: %w", c.id, errdefs.ErrFailedPrecondition)
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("what the init of container %s has printed is not kept: the container could not be created, or the node has booted since: %w", c.id, errdefs.ErrFailedPrecondition)
	case err != nil:
		return nil, fmt.Errorf("what the init of container %s has printed: %w", c.id, err)
	}
	return &pouchv1.InitLogResponse{ContainerId: c.id, Text: text}, nil
}

// printsApart says why a container has no log of its init.
func printsApart(v view) error {
	why := ""
	switch {
	case v.rec.Rich == nil:
		why = "it is a plain container, whose pid 1 is its own command"
	case v.rec.Rich.Mode == string(richcontainer.DumbInit):
		why = "in dumb-init mode pid 1 has the streams of the command"
	default:
		return nil
	}
	return fmt.Errorf("container %s has no log of its init: %s, all is in the container's log (cri-pouch logs): %w", v.rec.ID, why, errdefs.ErrFailedPrecondition)
}
