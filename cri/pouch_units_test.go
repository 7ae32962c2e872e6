package cri

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
	"github.com/cri-pouch/cri-pouch/cri/model"
	"github.com/cri-pouch/cri-pouch/internal/richrun"
	"github.com/cri-pouch/cri-pouch/richcontainer"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

func TestTheApplicationAsItsLauncherHasRecordedIt(t *testing.T) {
	const start, end = "start 1 45 1000\n", "end 1 exit 3 2000\n"
	for name, tc := range map[string]struct {
		record string
		ended  bool
		want   string // state, pid, starts, restarts, exit code
		unit   string // active
	}{
		"nothing yet":              {"", false, "waiting 0 0 0 -", "activating"},
		"never anything":           {"", true, "never-started 0 0 0 -", "inactive"},
		"it runs":                  {start, false, "running 45 1 0 -", "active"},
		"it went with pid 1":       {start, true, "exited 0 1 0 -", "inactive"},
		"between two starts":       {start + end, false, "restarting 0 1 0 3", "activating"},
		"it runs again":            {start + end + "start 2 50 3000\n", false, "running 50 2 1 -", "active"},
		"it is done":               {start + end + "done 3 2000\n", false, "exited 0 1 0 3", "failed"},
		"it is done well":          {start + "end 1 exit 0 2000\ndone 0 2000\n", true, "exited 0 1 0 0", "inactive"},
		"a signal":                 {start + "end 1 signal 9 2000\ndone 137 2000\n", true, "exited 0 1 0 137", "failed"},
		"a stop between":           {start + end, true, "exited 0 1 0 3", "failed"},
		"no such program":          {"failed 1 2 execve\ndone 127 2000\n", true, "failed 0 1 0 -", "failed"},
		"lies":                     {"start -7 -7 -7\nend -7 exit 256 1\nstart x\n\x00\xff", false, "restarting 0 1 0 0", "activating"},
		"a failure that is no one": {"failed 1 2 \x1b[2J\nfailed 1 2 " + strings.Repeat("x", 300) + "\n", false, "waiting 0 0 0 -", "activating"},
	} {
		t.Run(name, func(t *testing.T) {
			v := view{}
			if tc.ended {
				v.rec.End = &model.End{FinishedAt: time.Unix(9, 0), ExitCode: 77}
			}
			record := richrun.ParseRecord([]byte(tc.record))
			a := application(record, v)
			code := "-"
			if a.ExitCode != nil {
				code = fmt.Sprint(*a.ExitCode)
			}
			if got := fmt.Sprint(a.State, " ", a.Pid, " ", a.Starts, " ", a.Restarts, " ", code); got != tc.want {
				t.Errorf("it is %s, wanted %s", got, tc.want)
			}
			if u := recordedUnits(richrun.Plan{}, record, a)[0]; u.Active != tc.unit || u.Sub != a.State || u.Name != "application" {
				t.Errorf("its unit is %v, wanted %s", u, tc.unit)
			}
			if (a.Message != "") != (a.State == "failed") {
				t.Errorf("the message is %q", a.Message)
			}
		})
	}
}

func TestUnitsThatAreKnown(t *testing.T) {
	plan := richrun.Plan{
		Init: richrun.InitSystemd, WatchUnits: []string{"nginx.service", "agent.service"},
		Brought: []richrun.Brought{{Unit: "mine.timer"}, {Unit: "many@.service"}, {Unit: "agent.service", Component: "agent"}},
	}
	record := richrun.Record{Units: []string{"agent.service", "other.service"}}
	a := &pouchv1.Application{State: "running", Pid: 45, Restarts: 2}
	restarts := uint32(9)
	describe := func(units []*pouchv1.Unit) (out []string) {
		for _, u := range units {
			out = append(out, strings.TrimSpace(fmt.Sprint(u.Name, " ", u.Active, " ", u.MainPid, " ", u.GetRestarts(), map[bool]string{true: " application"}[u.Application],
				map[bool]string{true: " watched"}[u.Watched], map[bool]string{true: " brought"}[u.Brought], map[bool]string{true: " failed"}[u.HasFailed], " ", u.Component)))
		}
		return out
	}
	want := []string{"pouch-app.service active 45 2 application", "mine.timer  0 0 brought", "agent.service failed 0 0 watched failed agent", "nginx.service  0 0 watched"}
	known := recordedUnits(plan, record, a)
	if got := describe(known); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("recorded are\n%s", strings.Join(got, "\n"))
	}
	all := withStates(known, []richcontainer.UnitState{
		{Name: "zzz.service", Active: "inactive"}, {Name: "agent.service", Active: "active", MainPID: 7, Restarts: &restarts}, {Name: "aaa.service", Active: "active"},
		{Name: "pouch-app.service", Active: "active", MainPID: 40, Restarts: &restarts},
	})
	want = []string{"pouch-app.service active 45 2 application", "mine.timer  0 0 brought", "agent.service active 7 9 watched failed agent", "nginx.service  0 0 watched", "aaa.service active 0 0", "zzz.service inactive 0 0"}
	if got := describe(all); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("told are\n%s", strings.Join(got, "\n"))
	}
}

func TestLegible(t *testing.T) {
	for in, want := range map[string]string{
		"": "", " one\n": "one", "a\r\n\tb": "a   b", "\x1b[2J\x07\xff\u202e": "?[2J???", "\u00a0é\u0085": "é",
		strings.Repeat("é", 1000): strings.Repeat("é", problemMax/2),
	} {
		if got := legible([]byte(in)); got != want {
			t.Errorf("%q becomes %q, wanted %q", in, got, want)
		}
	}
}

// pidsRuntime gives the pids of one container.
type pidsRuntime struct {
	task.Runtime
	pids func() ([]uint32, error)
}

func (r pidsRuntime) Pids(context.Context, string) ([]uint32, error) { return r.pids() }

// A process that makes its reader wait makes one wait, however often somebody asks.
func TestAProcessThatMakesItsReaderWait(t *testing.T) {
	let, looks := make(chan struct{}), make(chan struct{}, 10)
	s := &Service{Options: Options{Runtime: pidsRuntime{pids: func() ([]uint32, error) {
		looks <- struct{}{}
		<-let
		return nil, nil
	}}}}
	c := newContainer(model.Container{ID: "c"})
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if _, _, err := s.processes(ctx, c); !errdefs.IsUnavailable(err) {
			t.Errorf("error is %v", err)
		}
		cancel()
	}
	if len(looks) != 1 {
		t.Errorf("%d looked at once", len(looks))
	}
	close(let)
	if _, _, err := s.processes(t.Context(), c); err != nil {
		t.Errorf("once it is gone: %v", err)
	}
}

func TestCommandLinesOfAnyBytes(t *testing.T) {
	cmd := exec.Command("cat", "-", "\xff\xfe\x1b[31m")
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait() //nolint:errcheck // it was looked at
	defer in.Close()
	s := &Service{Options: Options{Runtime: pidsRuntime{pids: func() ([]uint32, error) { return []uint32{uint32(cmd.Process.Pid), uint32(os.Getpid())}, nil }}}}
	c := newContainer(model.Container{ID: "c"})
	c.pid = os.Getpid()
	resp := &pouchv1.UnitsResponse{Application: &pouchv1.Application{Pid: int32(cmd.Process.Pid)}}
	if err := s.addProcesses(t.Context(), c, resp); err != nil || len(resp.Processes) != 2 {
		t.Fatalf("%v, %v", resp, err)
	}
	for _, p := range resp.Processes {
		if p.Application != (int(p.HostPid) == cmd.Process.Pid) || p.Application && p.Command != "cat - \ufffd\x1b[31m" {
			t.Errorf("%+q", p)
		}
	}
}
