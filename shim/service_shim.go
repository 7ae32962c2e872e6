package shim

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/cri-pouch/cri-pouch/internal/crash"
	shimapi "github.com/cri-pouch/cri-pouch/shim/api/v1"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

// shimService is pouch.shim.v1: what the task API lacks.
type shimService struct{ s *Server }

func (t shimService) Info(context.Context, *emptypb.Empty) (*shimapi.InfoResponse, error) {
	return &shimapi.InfoResponse{
		Pid: uint32(unix.Getpid()), Protocol: Protocol, StartedAt: timestamppb.New(t.s.startedAt), Containers: uint32(len(t.s.all())),
	}, nil
}

func (t shimService) List(context.Context, *emptypb.Empty) (*shimapi.ListResponse, error) {
	answer := &shimapi.ListResponse{}
	for _, c := range t.s.all() {
		answer.Containers = append(answer.Containers, c.info())
	}
	return answer, nil
}

func (t shimService) Start(ctx context.Context, r *shimapi.StartRequest) (*shimapi.Process, error) {
	c, err := t.s.get(r.Id)
	if err != nil {
		return nil, err
	}
	if err := c.start(ctx); err != nil {
		return nil, err
	}
	return c.info(), nil
}

func (t shimService) Inspect(_ context.Context, r *shimapi.InspectRequest) (*shimapi.Process, error) {
	c, e, err := t.s.find(r.Id, r.ExecId)
	if err != nil {
		return nil, err
	}
	if e != nil {
		return e.info(), nil
	}
	return c.info(), nil
}

func (t shimService) Stats(_ context.Context, r *shimapi.StatsRequest) (*shimapi.StatsResponse, error) {
	return t.s.stats(r.Id)
}

func (t shimService) ReopenLog(_ context.Context, r *shimapi.ReopenLogRequest) (*emptypb.Empty, error) {
	c, err := t.s.get(r.Id)
	if err != nil {
		return nil, err
	}
	if err := c.demand("reopen the log of", task.Running, task.Paused); err != nil {
		return nil, err
	}
	if err := c.logFile.Reopen(); err != nil {
		return nil, fmt.Errorf("reopen log of container %s: %w", r.Id, err)
	}
	return nothing, nil
}

// Events sends a first message at once, so that the caller knows from when on it misses nothing.
func (t shimService) Events(ctx context.Context, _ *shimapi.EventsRequest, to shimapi.Shim_EventsServer) (err error) {
	defer func() { err = toCode(err) }() // the edge of calls is not asked for streams
	defer crash.Catch(t.s.log, "Events", &err)
	events, cancel := t.s.events.subscribe()
	defer cancel()
	if err := to.Send(&shimapi.Event{Type: shimapi.Event_READY}); err != nil {
		return err
	}
	for {
		select {
		case e, ok := <-events:
			if !ok {
				return toCode(fmt.Errorf("the subscriber was too slow, or the shim ends: %w", errdefs.ErrUnavailable))
			}
			if err := to.Send(e); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (t shimService) Shutdown(ctx context.Context, r *shimapi.ShutdownRequest) (*emptypb.Empty, error) {
	return nothing, t.s.shutdown(ctx, r.Force)
}
