package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/cri-pouch/cri-pouch/internal/crash"
	shimapi "github.com/cri-pouch/cri-pouch/shim/api/v1"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

// Create makes a container from an OCI bundle and leaves it before its exec.
func (c *Client) Create(ctx context.Context, r task.CreateRequest) (int, error) {
	options, err := anypb.New(&shimapi.CreateOptions{
		LogPath: r.LogPath, Stdin: r.Stdin, StdinOnce: r.StdinOnce, SystemdCgroup: r.SystemdCgroup,
	})
	if err != nil {
		return 0, fmt.Errorf("create container %s: encode options: %w", r.ID, err)
	}
	c.forgetLost(r.ID)
	var answer *taskapi.CreateTaskResponse
	err = c.call(ctx, func(conn *connection) (err error) {
		answer, err = conn.task.Create(ctx, &taskapi.CreateTaskRequest{ID: r.ID, Bundle: r.Bundle, Terminal: r.Terminal, Options: options})
		return err
	})
	return int(answer.GetPid()), err
}

// Start lets the created container run its program.
func (c *Client) Start(ctx context.Context, id string) (time.Time, error) {
	var info *shimapi.Process
	err := c.call(ctx, func(conn *connection) (err error) {
		info, err = conn.shim.Start(ctx, &shimapi.StartRequest{Id: id})
		return err
	})
	if err != nil {
		return time.Time{}, err
	}
	return info.StartedAt.AsTime(), nil
}

// Kill sends a signal to the container's init or, with all, to every process of its cgroup.
func (c *Client) Kill(ctx context.Context, id string, signal uint32, all bool) error {
	return c.call(ctx, func(conn *connection) error {
		_, err := conn.task.Kill(ctx, &taskapi.KillRequest{ID: id, Signal: signal, All: all})
		return err
	})
}

// Delete removes an ended (or never started) container and gives its end.
func (c *Client) Delete(ctx context.Context, id string) (task.Exit, error) {
	c.forgetLost(id)
	var exit task.Exit
	err := c.call(ctx, func(conn *connection) error {
		info, _ := conn.shim.Inspect(ctx, &shimapi.InspectRequest{Id: id}) // one that is being created is not told
		gone, err := conn.task.Delete(ctx, &taskapi.DeleteRequest{ID: id})
		if err != nil {
			return err
		}
		exit = task.Exit{Code: gone.ExitStatus, ExitedAt: gone.ExitedAt.AsTime(), OOMKilled: info.GetExit().GetOomKilled()}
		return nil
	})
	return exit, err
}

// Wait blocks until the process has ended and its log is complete.
func (c *Client) Wait(ctx context.Context, id, execID string) (task.Exit, error) {
	var exit task.Exit
	err := c.call(ctx, func(conn *connection) error {
		end, err := conn.task.Wait(ctx, &taskapi.WaitRequest{ID: id, ExecID: execID})
		if err != nil {
			return err
		}
		exit = task.Exit{Code: end.ExitStatus, ExitedAt: end.ExitedAt.AsTime()}
		// The task API has no word for the OOM killer. Somebody else may have deleted the container meanwhile.
		if info, err := conn.shim.Inspect(ctx, &shimapi.InspectRequest{Id: id, ExecId: execID}); err == nil {
			exit.OOMKilled = info.GetExit().GetOomKilled()
		}
		return nil
	})
	return exit, err
}

// List gives every container that the shim holds.
func (c *Client) List(ctx context.Context) ([]task.Info, error) {
	var infos []task.Info
	err := c.call(ctx, func(conn *connection) error {
		answer, err := conn.shim.List(ctx, &emptypb.Empty{})
		for _, p := range answer.GetContainers() {
			infos = append(infos, info(p))
		}
		return err
	})
	return infos, err
}

// State gives one container.
func (c *Client) State(ctx context.Context, id string) (task.Info, error) {
	var p *shimapi.Process
	err := c.call(ctx, func(conn *connection) (err error) {
		p, err = conn.shim.Inspect(ctx, &shimapi.InspectRequest{Id: id})
		return err
	})
	if err != nil {
		return task.Info{}, err
	}
	return info(p), nil
}

func info(p *shimapi.Process) task.Info {
	i := task.Info{
		ID: p.Id, Pid: int(p.Pid), Status: task.Status(p.Status), Exit: exit(p.Exit), Starting: p.Starting, Ending: p.Ending,
	}
	if p.StartedAt != nil {
		i.StartedAt = p.StartedAt.AsTime()
	}
	return i
}

func exit(e *shimapi.Exit) *task.Exit {
	if e == nil {
		return nil
	}
	return &task.Exit{Code: e.Code, ExitedAt: e.ExitedAt.AsTime(), OOMKilled: e.OomKilled}
}

// Pids gives the host pids of the container's processes.
func (c *Client) Pids(ctx context.Context, id string) ([]uint32, error) {
	var pids []uint32
	err := c.call(ctx, func(conn *connection) error {
		answer, err := conn.task.Pids(ctx, &taskapi.PidsRequest{ID: id})
		for _, p := range answer.GetProcesses() {
			pids = append(pids, p.Pid)
		}
		return err
	})
	return pids, err
}

// Pause freezes all processes of the container.
func (c *Client) Pause(ctx context.Context, id string) error {
	return c.call(ctx, func(conn *connection) error {
		_, err := conn.task.Pause(ctx, &taskapi.PauseRequest{ID: id})
		return err
	})
}

// Resume thaws them.
func (c *Client) Resume(ctx context.Context, id string) error {
	return c.call(ctx, func(conn *connection) error {
		_, err := conn.task.Resume(ctx, &taskapi.ResumeRequest{ID: id})
		return err
	})
}

// Update changes the limits of a running container: resources is the JSON of OCI's LinuxResources.
func (c *Client) Update(ctx context.Context, id string, resources []byte) error {
	return c.call(ctx, func(conn *connection) error {
		_, err := conn.task.Update(ctx, &taskapi.UpdateTaskRequest{ID: id, Resources: &anypb.Any{Value: resources}})
		return err
	})
}

// ReopenLog makes the shim write to a new file at the container's log path.
func (c *Client) ReopenLog(ctx context.Context, id string) error {
	return c.call(ctx, func(conn *connection) error {
		_, err := conn.shim.ReopenLog(ctx, &shimapi.ReopenLogRequest{Id: id})
		return err
	})
}

// Exec starts a further process in a running container. A process that comes to be after ctx has ended is killed.
func (c *Client) Exec(ctx context.Context, r task.ExecRequest) (int, error) {
	var pid int
	err := c.call(ctx, func(conn *connection) error {
		_, err := conn.task.Exec(ctx, &taskapi.ExecProcessRequest{
			ID: r.ID, ExecID: r.ExecID, Terminal: r.Terminal, Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr,
			Spec: &anypb.Any{Value: r.Process},
		})
		if err != nil {
			return err
		}
		answer, err := conn.task.Start(ctx, &taskapi.StartRequest{ID: r.ID, ExecID: r.ExecID})
		pid = int(answer.GetPid())
		return err
	})
	if err != nil && ctx.Err() != nil {
		ctx := context.WithoutCancel(ctx)
		crash.Go(c.o.Log, "end an exec that was given up", func() { c.dropExec(ctx, r.ID, r.ExecID) })
	}
	return pid, err
}

// dropExec ends an exec that its caller has given up, which may be starting still.
func (c *Client) dropExec(ctx context.Context, id, execID string) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		err := c.KillExec(ctx, id, execID, uint32(unix.SIGKILL), true)
		if err == nil {
			if _, err = c.Wait(ctx, id, execID); err == nil {
				err = c.DeleteExec(ctx, id, execID)
			}
		}
		if err == nil || !errdefs.IsFailedPrecondition(err) || ctx.Err() != nil {
			return
		}
		time.Sleep(100 * time.Millisecond) // it is being started: nothing tells when
	}
}

// KillExec sends a signal to an exec'd process and, with all, to what it started.
func (c *Client) KillExec(ctx context.Context, id, execID string, signal uint32, all bool) error {
	return c.call(ctx, func(conn *connection) error {
		_, err := conn.task.Kill(ctx, &taskapi.KillRequest{ID: id, ExecID: execID, Signal: signal, All: all})
		return err
	})
}

// DeleteExec forgets an ended exec'd process.
func (c *Client) DeleteExec(ctx context.Context, id, execID string) error {
	return c.call(ctx, func(conn *connection) error {
		_, err := conn.task.Delete(ctx, &taskapi.DeleteRequest{ID: id, ExecID: execID})
		return err
	})
}

// ResizePty sets the terminal's size in cells.
func (c *Client) ResizePty(ctx context.Context, id, execID string, width, height uint32) error {
	return c.call(ctx, func(conn *connection) error {
		_, err := conn.task.ResizePty(ctx, &taskapi.ResizePtyRequest{ID: id, ExecID: execID, Width: width, Height: height})
		return err
	})
}

// CloseIO closes the stdin of a container or of an exec'd process.
func (c *Client) CloseIO(ctx context.Context, id, execID string) error {
	return c.call(ctx, func(conn *connection) error {
		_, err := conn.task.CloseIO(ctx, &taskapi.CloseIORequest{ID: id, ExecID: execID, Stdin: true})
		return err
	})
}

// Attach connects the caller's FIFOs with a running container's stdio.
func (c *Client) Attach(ctx context.Context, r task.AttachRequest) (wait func() error, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var stream shimapi.Shim_AttachClient
	err = c.call(ctx, func(conn *connection) (err error) {
		stream, err = conn.shim.Attach(ctx, &shimapi.AttachRequest{Id: r.ID, Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr})
		if err == nil {
			_, err = stream.Recv()
		}
		return err
	})
	if err != nil {
		cancel()
		return nil, err
	}
	return func() error {
		defer cancel()
		_, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		return native(err)
	}, nil
}

// Events delivers what happens from the call on, after those containers that were lost before it.
func (c *Client) Events(ctx context.Context) (<-chan task.Event, error) {
	var stream shimapi.Shim_EventsClient
	err := c.call(ctx, func(conn *connection) (err error) {
		if stream, err = conn.shim.Events(ctx, &shimapi.EventsRequest{}); err == nil {
			_, err = stream.Recv() // from here on nothing is missed
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("subscribe to events: %w", err)
	}
	events := make(chan task.Event)
	crash.Go(c.o.Log, "pass on the shim's events", func() {
		defer close(events)
		for _, id := range c.Lost() {
			if !send(ctx, events, task.Event{Type: task.EventLost, ID: id}) {
				return
			}
		}
		for {
			e, err := stream.Recv()
			if err != nil {
				return
			}
			event := task.Event{ID: e.Id, Exit: exit(e.Exit)}
			switch e.Type {
			case shimapi.Event_EXIT:
				event.Type = task.EventExit
			case shimapi.Event_OOM:
				event.Type = task.EventOOM
			default: // of a newer shim
				continue
			}
			if !send(ctx, events, event) {
				return
			}
		}
	})
	return events, nil
}

func send(ctx context.Context, to chan<- task.Event, e task.Event) bool {
	select {
	case to <- e:
		return true
	case <-ctx.Done():
		return false
	}
}
