package cri

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/containerd/errdefs"

	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
	"github.com/cri-pouch/cri-pouch/internal/crash"
	"github.com/cri-pouch/cri-pouch/internal/procs"
	"github.com/cri-pouch/cri-pouch/internal/richrun"
	"github.com/cri-pouch/cri-pouch/richcontainer"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

// What is asked inside of a container for Units is bounded.
const (
	systemctlLimit     = 15 * time.Second // it takes 0.1 s of CPU time, of which a container can have been given very little
	systemctlOutputMax = 1 << 20          // bytes
	processesLimit     = 2 * time.Second
	processesMax       = 512
	problemMax         = 300 // bytes of a container's own words in an error
)

// Units gives what runs inside of a rich container. What systemd lists, what the launcher has recorded and what processes call
// themselves is the container's own word.
func (s *Service) Units(ctx context.Context, r *pouchv1.UnitsRequest) (*pouchv1.UnitsResponse, error) {
	c, err := s.index.container(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	v := c.view()
	if v.rec.Rich == nil {
		return nil, fmt.Errorf("container %s is a plain one: its command is pid 1, there is no init with services: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	resp := &pouchv1.UnitsResponse{ContainerId: c.id, Mode: v.rec.Rich.Mode, Running: v.status == task.Running || v.status == task.Paused}
	if resp.Mode == string(richcontainer.DumbInit) {
		if !resp.Running {
			return nil, fmt.Errorf("container %s is not running but %s, and in dumb-init mode nothing is recorded: %w", c.id, v.status, errdefs.ErrFailedPrecondition)
		}
		return resp, s.addProcesses(ctx, c, resp)
	}
	plan, err := richrun.ReadPlan(s.bundleDir(c.id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("what has run inside of container %s is not kept: the node has booted since: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return nil, fmt.Errorf("units of container %s: %w", c.id, err)
	}
	record, err := richrun.ReadRecord(s.bundleDir(c.id))
	if err != nil {
		return nil, fmt.Errorf("units of container %s: %w", c.id, err)
	}
	resp.Init, resp.Application = plan.Init, application(record, v)
	resp.Units = recordedUnits(plan, record, resp.Application)
	if !resp.Running {
		return resp, nil
	}
	return resp, s.look(ctx, c, plan, resp)
}

// look asks the running container: its init for the services, where that can say; else the processes are told.
func (s *Service) look(ctx context.Context, c *container, plan richrun.Plan, resp *pouchv1.UnitsResponse) error {
	if plan.Init != richrun.InitSystemd {
		return s.addProcesses(ctx, c, resp)
	}
	states, omitted, err := s.unitStates(ctx, c, plan)
	if ctx.Err() != nil {
		return fmt.Errorf("units of container %s: %w", c.id, ctx.Err())
	}
	if len(states) == 0 {
		if err == nil {
			err = errors.New("systemctl lists no services")
		}
		resp.Problem = err.Error()
		return s.addProcesses(ctx, c, resp)
	}
	if err != nil {
		resp.Problem = err.Error()
	}
	resp.Units, resp.UnitsOmitted = withStates(resp.Units, states), uint32(omitted)
	return nil
}

// unitStates asks systemctl in the container, as the user that pid 1 is. There can be states and an error.
func (s *Service) unitStates(ctx context.Context, c *container, plan richrun.Plan) ([]richcontainer.UnitState, int, error) {
	ctx, cancel := context.WithTimeout(ctx, systemctlLimit)
	defer cancel()
	if err := c.looking.Acquire(ctx, 1); err != nil {
		return nil, 0, fmt.Errorf("somebody else is waiting for what runs inside of container %s: %w", c.id, errdefs.ErrUnavailable)
	}
	defer c.looking.Release(1)
	sp, err := s.readSpec(c.id)
	if err != nil {
		return nil, 0, err
	}
	named := slices.Clone(plan.WatchUnits)
	for _, b := range plan.Brought {
		named = append(named, b.Unit)
	}
	x, err := s.newExec(c, s.Spec.Exec(sp, richcontainer.UnitStatesCommand(named), false), systemctlOutputMax)
	if err != nil {
		return nil, 0, err
	}
	defer x.close()
	out, err := x.run(ctx)
	if err != nil {
		return nil, 0, fmt.Errorf("systemctl: %w", err)
	}
	states, omitted := richcontainer.ParseUnitStates(out.GetStdout())
	if code := out.GetExitCode(); code != 0 {
		err = fmt.Errorf("systemctl ended with code %d: %s", code, legible(out.GetStderr()))
	}
	return states, omitted, err
}

// legible makes one line of what a container says.
func legible(text []byte) string {
	line := strings.TrimSpace(string(text[:min(len(text), problemMax)]))
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r) || r == unicode.ReplacementChar:
			return '?'
		}
		return r
	}, line)
}

// addProcesses lists the processes of a running container.
func (s *Service) addProcesses(ctx context.Context, c *container, resp *pouchv1.UnitsResponse) error {
	found, omitted, err := s.processes(ctx, c)
	if err != nil {
		return fmt.Errorf("processes of container %s: %w", c.id, err)
	}
	resp.ProcessesOmitted = uint32(omitted)
	for _, p := range found {
		resp.Processes = append(resp.Processes, &pouchv1.Process{
			Pid: int32(p.PID), ParentPid: int32(p.Parent), HostPid: int32(p.HostPID), State: string(rune(p.State)),
			Command: strings.ToValidUTF8(p.Command, string(unicode.ReplacementChar)), Application: p.PID > 0 && int32(p.PID) == resp.GetApplication().GetPid(),
		})
	}
	return nil
}

// processes reads proc(5). A process can make that wait for as long as it lives: then nobody waits with it, and nobody else
// looks at the container.
func (s *Service) processes(ctx context.Context, c *container) (found []procs.Process, omitted int, err error) {
	ctx, cancel := context.WithTimeout(ctx, processesLimit)
	defer cancel()
	unavailable := fmt.Errorf("they cannot be read at the moment, one of them makes the reader wait: %w", errdefs.ErrUnavailable)
	if err := c.looking.Acquire(ctx, 1); err != nil {
		return nil, 0, unavailable
	}
	type answer struct {
		found   []procs.Process
		omitted int
		err     error
	}
	answers := make(chan answer, 1)
	crash.Go(s.Log, "read the processes of container "+c.id, func() {
		defer c.looking.Release(1)
		list := func() ([]uint32, error) { return s.Runtime.Pids(ctx, c.id) }
		found, omitted, err := procs.Read(list, c.view().pid, processesMax)
		answers <- answer{found, omitted, err}
	})
	select {
	case a := <-answers:
		return a.found, a.omitted, a.err
	case <-ctx.Done():
		return nil, 0, unavailable
	}
}

// application says what the launcher has recorded.
func application(record richrun.Record, v view) *pouchv1.Application {
	a := &pouchv1.Application{State: "waiting", Starts: uint32(record.Starts), Restarts: uint32(max(record.Starts-1, 0))}
	over := v.rec.End != nil
	if over {
		a.State = "never-started"
	}
	if len(record.Runs) == 0 {
		return a
	}
	last := record.Runs[len(record.Runs)-1]
	a.StartedAt, a.FinishedAt = nanos(last.StartedAt), nanos(last.EndedAt)
	switch {
	case last.Failed != "":
		a.State, a.Message = "failed", fmt.Sprintf("step %s: %s", last.Failed, syscall.Errno(last.Errno))
	case last.Ended && !record.Done && !over:
		a.State = "restarting"
	case last.Ended || over: // one that has no end in the record went with pid 1
		a.State = "exited"
	default:
		a.State, a.Pid = "running", int32(last.PID)
	}
	if last.Ended {
		code := int32(last.Code)
		a.ExitCode = &code
	}
	return a
}
