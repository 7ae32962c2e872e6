package main

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
)

func (f *fake) Units(_ context.Context, r *pouchv1.UnitsRequest) (*pouchv1.UnitsResponse, error) {
	resp := proto.CloneOf(f.units)
	resp.ContainerId = r.ContainerId
	return resp, nil
}

func (f *fake) InitLog(_ context.Context, r *pouchv1.InitLogRequest) (*pouchv1.InitLogResponse, error) {
	return &pouchv1.InitLogResponse{ContainerId: r.ContainerId, Text: f.initLog}, nil
}

// inside is what a rich container tells.
func inside() *fake {
	f := node()
	f.units = &pouchv1.UnitsResponse{
		Mode: "systemd", Init: "systemd", Running: true, Application: &pouchv1.Application{State: "running", Pid: 45, Starts: 2, Restarts: 1},
		Units: []*pouchv1.Unit{
			{Name: "pouch-app.service", Load: "loaded", Active: "active", Sub: "running", MainPid: 45, Restarts: proto.Uint32(1), Application: true},
			{Name: "agent.service", Load: "loaded", Active: "inactive", Sub: "dead", Restarts: proto.Uint32(0), Component: "log-agent"},
			{Name: "nginx.service", Load: "loaded", Active: "active", Sub: "running", MainPid: 50, Restarts: proto.Uint32(3), Watched: true, Brought: true, HasFailed: true},
			{Name: "broken.service", Load: "loaded", Active: "failed", Sub: "failed"},
			{Name: "getty@tty1.service", Load: "masked", Active: "inactive", Sub: "dead"},
		},
	}
	return f
}

func TestUnits(t *testing.T) {
	f := inside()
	want := `UNIT                LOAD     ACTIVE     SUB       PID   RESTARTS   ROLE
pouch-app.service   loaded   active     running   45    1          application
agent.service       loaded   inactive   dead      -     0          component log-agent
nginx.service       loaded   active     running   50    3          of the pod, watched, has failed
broken.service      loaded   failed     failed    -     -          -
`
	if r := command(t, f, "", "ps", "--units", "web/app"); r.code != 0 || r.out != want || r.err != "" {
		t.Errorf("code %d, %s\n%s", r.code, r.err, r.out)
	}
	if r := command(t, f, "", "ps", "-a", "--units", "c2"); r.code != 0 || !strings.Contains(r.out, "getty@tty1.service   masked") {
		t.Errorf("code %d, %s\n%s", r.code, r.err, r.out)
	}
	if id := sent[*pouchv1.UnitsRequest](t, f).ContainerId; id != f.containers[1].Id {
		t.Errorf("asked for %s", id)
	}
	if r := command(t, f, "", "ps", "-q", "--units", "app"); r.out != "pouch-app.service\nagent.service\nnginx.service\nbroken.service\n" {
		t.Errorf("code %d, %s\n%s", r.code, r.err, r.out)
	}
	r := command(t, f, "", "ps", "--units", "app", "-o", "json")
	var got struct {
		Mode        string
		Units       []struct{ Name string }
		Application struct{ Restarts int }
	}
	if err := json.Unmarshal([]byte(r.out), &got); err != nil || got.Mode != "systemd" || len(got.Units) != 4 || got.Application.Restarts != 1 {
		t.Errorf("code %d, %s, %v\n%s", r.code, r.err, err, r.out)
	}
}

func TestUnitsWithProcesses(t *testing.T) {
	f := node()
	f.units = &pouchv1.UnitsResponse{
		Mode: "sbin-init", Init: "sysvinit", Running: true, Problem: "systemctl\x1b[2J has no answer", UnitsOmitted: 2,
		Application: &pouchv1.Application{State: "restarting", Starts: 1, ExitCode: proto.Int32(3)},
		Units:       []*pouchv1.Unit{{Name: "application", Active: "activating", Sub: "restarting", Restarts: proto.Uint32(0), Application: true}},
		Processes: []*pouchv1.Process{
			{Pid: 1, State: "S", Command: "init [2]"}, {Pid: 45, ParentPid: 1, State: "R", Command: "app \x1b[31m\u202e", Application: true},
		},
	}
	want := `UNIT          LOAD   ACTIVE       SUB              PID   RESTARTS   ROLE
application   -      activating   restarting (3)   -     0          application

PID   PARENT   STATE   ROLE          COMMAND
1     0        S       init          init [2]
45    1        R       application   app ?[31m?
`
	r := command(t, f, "", "ps", "--units", "app")
	if r.code != 1 || r.out != want || r.err != "cri-pouch: 2 more units are not listed\ncri-pouch: the services are not known: systemctl?[2J has no answer\n" {
		t.Errorf("code %d, %q\n%s", r.code, r.err, r.out)
	}
}

func TestUnitsRefused(t *testing.T) {
	f := inside()
	f.fail["Units"] = status.Error(codes.FailedPrecondition, "container c is a plain one: failed precondition")
	if r := command(t, f, "", "ps", "--units", "app"); r.code != 1 || r.out != "" || r.err != "cri-pouch: container c is a plain one\n" {
		t.Errorf("%+v", r)
	}
	for _, args := range [][]string{{"ps", "--units"}, {"ps", "--units", "app", "--pod", "web"}, {"ps", "--units", "app", "more"}, {"ps", "--units", "app", "-o", "yaml"}} {
		if r := command(t, f, "", args...); r.code != 2 {
			t.Errorf("%q: %+v", args, r)
		}
	}
	if r := command(t, f, "", "ps", "--units", "nobody"); r.code != 1 || !strings.Contains(r.err, `no container "nobody"`) {
		t.Errorf("%+v", r)
	}
}

func TestInitLog(t *testing.T) {
	f := node()
	f.initLog = []byte("one\n\x1b[2Jtwo\xff\n\nfour")
	for _, tc := range []struct {
		args []string
		want string
	}{
		{nil, "one\n\x1b[2Jtwo\xff\n\nfour"}, {[]string{"--tail", "0"}, ""}, {[]string{"--tail", "1"}, "four"}, {[]string{"--tail", "2"}, "\nfour"},
		{[]string{"--tail", "3"}, "\x1b[2Jtwo\xff\n\nfour"}, {[]string{"--tail", "4"}, "one\n\x1b[2Jtwo\xff\n\nfour"}, {[]string{"--tail", "9"}, "one\n\x1b[2Jtwo\xff\n\nfour"},
	} {
		if r := command(t, f, "", slices.Concat([]string{"logs", "--init", "side"}, tc.args)...); r.code != 0 || r.out != tc.want || r.err != "" {
			t.Errorf("%q: code %d, %s, %q", tc.args, r.code, r.err, r.out)
		}
	}
	if id := sent[*pouchv1.InitLogRequest](t, f).ContainerId; id != f.containers[2].Id {
		t.Errorf("asked for %s", id)
	}
	for _, flag := range []string{"-f", "-t"} {
		if r := command(t, f, "", "logs", "--init", flag, "side"); r.code != 2 {
			t.Errorf("%s: %+v", flag, r)
		}
	}
}

func TestLastLines(t *testing.T) {
	for text, want := range map[string][]string{
		"": {"", "", ""}, "a": {"", "a", "a"}, "a\n": {"", "a\n", "a\n"}, "a\nb\n": {"", "b\n", "a\nb\n"}, "\n\n": {"", "\n", "\n\n"}, "\n": {"", "\n", "\n"},
	} {
		for n, w := range want {
			if got := string(lastLines([]byte(text), n)); got != w {
				t.Errorf("%d lines of %q: %q, wanted %q", n, text, got, w)
			}
		}
	}
}
