package shim

import (
	"context"
	"fmt"

	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	taskapi "github.com/cri-pouch/cri-pouch/shim/api/taskv3"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	shimapi "github.com/cri-pouch/cri-pouch/shim/api/v1"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

// taskService is containerd's task API (containerd.task.v3.Task) for all containers of the node.
type taskService struct{ s *Server }

var nothing = &emptypb.Empty{}

// Create takes CreateOptions of pouch.shim.v1 in its options. The root filesystem is mounted by the caller; stdio is the
// shim's own, so that paths for it are refused.
func (t taskService) Create(ctx context.Context, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	if len(r.Rootfs) > 0 || r.Stdin != "" || r.Stdout != "" || r.Stderr != "" || r.Checkpoint != "" {
		return nil, fmt.Errorf("create container %s: this shim takes neither mounts nor stdio nor checkpoints: %w", r.Id, errdefs.ErrInvalidArgument)
	}
	o := &shimapi.CreateOptions{}
	if r.Options != nil {
		if err := r.Options.UnmarshalTo(o); err != nil {
			return nil, fmt.Errorf("create container %s: options: %w (%w)", r.Id, err, errdefs.ErrInvalidArgument)
		}
	}
	pid, err := t.s.create(ctx, r.Id, r.Bundle, r.Terminal, o)
	if err != nil {
		return nil, err
	}
	return &taskapi.CreateTaskResponse{Pid: uint32(pid)}, nil
}

func (t taskService) Start(ctx context.Context, r *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	c, e, err := t.s.find(r.Id, r.ExecId)
	if err != nil {
		return nil, err
	}
	if e != nil {
		pid, err := e.start(ctx)
		if err != nil {
			return nil, err
		}
		return &taskapi.StartResponse{Pid: uint32(pid)}, nil
	}
	if err := c.start(ctx); err != nil {
		return nil, err
	}
	return &taskapi.StartResponse{Pid: uint32(c.init.pid)}, nil
}

// Delete also ends a creation under way, with FailedPrecondition as long as that lasts.
func (t taskService) Delete(ctx context.Context, r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	c, e, err := t.s.find(r.Id, r.ExecId)
	if err != nil {
		if r.ExecId == "" {
			t.s.cancelCreation(r.Id)
		}
		return nil, err
	}
	if e != nil {
		p, err := e.remove()
		if err != nil || p == nil {
			return &taskapi.DeleteResponse{}, err
		}
		return deleted(p), nil
	}
	if err := c.delete(ctx); err != nil {
		return nil, err
	}
	return deleted(c.init), nil
}

func deleted(p *process) *taskapi.DeleteResponse {
	return &taskapi.DeleteResponse{Pid: uint32(p.pid), ExitStatus: p.exit.Code, ExitedAt: timestamppb.New(p.exit.ExitedAt)}
}

// delete removes a container that has ended or whose program never ran; a start under way ends. FailedPrecondition: it runs.
func (c *container) delete(ctx context.Context) error {
	if c.giveUp() {
		return c.destroyByForce(ctx)
	}
	release, err := c.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := c.demand("delete", task.Stopped); err != nil {
		return err
	}
	if _, err := c.init.await(ctx); err != nil {
		return err
	}
	return c.remove(context.WithoutCancel(ctx))
}

func (t taskService) Kill(ctx context.Context, r *taskapi.KillRequest) (*emptypb.Empty, error) {
	c, e, err := t.s.find(r.Id, r.ExecId)
	if err != nil {
		return nil, err
	}
	if e != nil {
		return nothing, e.kill(unix.Signal(r.Signal), r.All)
	}
	return nothing, c.kill(ctx, unix.Signal(r.Signal), r.All)
}

func (t taskService) Exec(_ context.Context, r *taskapi.ExecProcessRequest) (*emptypb.Empty, error) {
	c, err := t.s.get(r.Id)
	if err != nil {
		return nil, err
	}
	e := &execution{id: r.ExecId, stdin: r.Stdin, stdout: r.Stdout, stderr: r.Stderr, terminal: r.Terminal}
	return nothing, c.addExec(e, r.Spec.GetValue())
}

func (t taskService) ResizePty(_ context.Context, r *taskapi.ResizePtyRequest) (*emptypb.Empty, error) {
	p, err := t.s.process(r.Id, r.ExecId)
	if err != nil {
		return nil, err
	}
	if p.ended() {
		return nil, fmt.Errorf("resize terminal in container %s: the process has ended: %w", r.Id, errdefs.ErrFailedPrecondition)
	}
	if r.Width > 1<<16-1 || r.Height > 1<<16-1 {
		return nil, fmt.Errorf("terminal size %d x %d is too large: %w", r.Width, r.Height, errdefs.ErrInvalidArgument)
	}
	return nothing, p.io.resize(uint16(r.Width), uint16(r.Height))
}

func (t taskService) CloseIO(_ context.Context, r *taskapi.CloseIORequest) (*emptypb.Empty, error) {
	p, err := t.s.process(r.Id, r.ExecId)
	if err != nil {
		return nil, err
	}
	return nothing, p.io.closeStdin()
}

func (t taskService) Wait(ctx context.Context, r *taskapi.WaitRequest) (*taskapi.WaitResponse, error) {
	p, err := t.s.process(r.Id, r.ExecId)
	if err != nil {
		return nil, err
	}
	exit, err := p.await(ctx)
	if err != nil {
		return nil, err
	}
	return &taskapi.WaitResponse{ExitStatus: exit.Code, ExitedAt: timestamppb.New(exit.ExitedAt)}, nil
}

func (t taskService) State(_ context.Context, r *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	c, e, err := t.s.find(r.Id, r.ExecId)
	if err != nil {
		return nil, err
	}
	info, terminal := c.info(), c.terminal
	if e != nil {
		info, terminal = e.info(), e.terminal
	}
	status := map[string]tasktypes.Status{
		string(task.Created): tasktypes.Status_CREATED, string(task.Running): tasktypes.Status_RUNNING,
		string(task.Paused): tasktypes.Status_PAUSED, string(task.Stopped): tasktypes.Status_STOPPED,
	}[info.Status]
	return &taskapi.StateResponse{
		Id: r.Id, ExecId: r.ExecId, Bundle: c.bundle, Pid: info.Pid, Status: status, Terminal: terminal,
		ExitStatus: info.GetExit().GetCode(), ExitedAt: info.GetExit().GetExitedAt(),
	}, nil
}

func (t taskService) Pids(_ context.Context, r *taskapi.PidsRequest) (*taskapi.PidsResponse, error) {
	c, err := t.s.get(r.Id)
	if err != nil {
		return nil, err
	}
	pids, err := c.tree.Pids()
	if err != nil {
		return nil, err
	}
	answer := &taskapi.PidsResponse{}
	for _, pid := range pids {
		answer.Processes = append(answer.Processes, &tasktypes.ProcessInfo{Pid: uint32(pid)})
	}
	return answer, nil
}

func (t taskService) Pause(ctx context.Context, r *taskapi.PauseRequest) (*emptypb.Empty, error) {
	c, err := t.s.get(r.Id)
	if err != nil {
		return nil, err
	}
	return nothing, c.pause(ctx)
}

func (t taskService) Resume(ctx context.Context, r *taskapi.ResumeRequest) (*emptypb.Empty, error) {
	c, err := t.s.get(r.Id)
	if err != nil {
		return nil, err
	}
	return nothing, c.resume(ctx)
}

// Update takes the JSON of OCI's LinuxResources as the value of resources.
func (t taskService) Update(ctx context.Context, r *taskapi.UpdateTaskRequest) (*emptypb.Empty, error) {
	c, err := t.s.get(r.Id)
	if err != nil {
		return nil, err
	}
	return nothing, c.update(ctx, r.Resources.GetValue())
}

// Stats gives a StatsResponse of pouch.shim.v1.
func (t taskService) Stats(_ context.Context, r *taskapi.StatsRequest) (*taskapi.StatsResponse, error) {
	stats, err := t.s.stats(r.Id)
	if err != nil {
		return nil, err
	}
	packed, err := anypb.New(stats)
	if err != nil {
		return nil, fmt.Errorf("encode stats of container %s: %w", r.Id, err)
	}
	return &taskapi.StatsResponse{Stats: packed}, nil
}

func (t taskService) Connect(_ context.Context, r *taskapi.ConnectRequest) (*taskapi.ConnectResponse, error) {
	answer := &taskapi.ConnectResponse{ShimPid: uint32(unix.Getpid()), Version: fmt.Sprint(Protocol)}
	if r.Id != "" {
		c, err := t.s.get(r.Id)
		if err != nil {
			return nil, err
		}
		answer.TaskPid = uint32(c.init.pid)
	}
	return answer, nil
}

// Shutdown is meant for a shim of one task: here it ends nothing. Use pouch.shim.v1.
func (t taskService) Shutdown(context.Context, *taskapi.ShutdownRequest) (*emptypb.Empty, error) {
	return nothing, nil
}

func (t taskService) Checkpoint(_ context.Context, r *taskapi.CheckpointTaskRequest) (*emptypb.Empty, error) {
	return nil, fmt.Errorf("checkpoint of container %s: %w", r.Id, errdefs.ErrNotImplemented)
}

// find gives the container and, where execID is not empty, one of its exec'd processes.
func (s *Server) find(id, execID string) (*container, *execution, error) {
	c, err := s.get(id)
	if err != nil || execID == "" {
		return c, nil, err
	}
	e, err := c.exec(execID)
	return c, e, err
}

// process gives the init or the exec'd process.
func (s *Server) process(id, execID string) (*process, error) {
	c, e, err := s.find(id, execID)
	if err != nil {
		return nil, err
	}
	if e != nil {
		return e.running()
	}
	return c.init, nil
}
