package main

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
)

func (f *fake) History(_ context.Context, r *pouchv1.HistoryRequest) (*pouchv1.HistoryResponse, error) {
	return &pouchv1.HistoryResponse{PodSandboxId: r.PodSandboxId, Generations: f.history}, nil
}

func (f *fake) Events(r *pouchv1.EventsRequest, s pouchv1.Pouch_EventsServer) error {
	f.mu.Lock()
	f.requests = append(f.requests, r)
	err := f.fail["Events"]
	f.mu.Unlock()
	for _, e := range f.events {
		if err := s.Send(e); err != nil {
			return err
		}
	}
	return err
}

func TestHistory(t *testing.T) {
	at := time.Date(2026, 1, 12, 9, 0, 2, 5, time.Local)
	hex := strings.Repeat("0123456789abcdef", 4)
	f := node()
	f.history = []*pouchv1.Generation{
		{ContainerName: "app", ContainerId: "e1" + hex[2:], State: pouchv1.GenerationState_GENERATION_STATE_REMOVED, Image: "r.example/app:1", ImageRef: "r.example/app@sha256:" + hex,
			Hash: "5d1c8b3e", Cause: pouchv1.Cause_CAUSE_FIRST, StartedAt: at.UnixNano(), FinishedAt: at.Add(2 * time.Hour).UnixNano(), ExitCode: 137, Reason: "OOMKilled"},
		{ContainerName: "app", ContainerId: "e2" + hex[2:], Attempt: 1, State: pouchv1.GenerationState_GENERATION_STATE_EXITED, Image: "\x1b[31mred", ImageRef: "sha256:" + hex,
			Hash: "77aa0f21", Cause: pouchv1.Cause_CAUSE_UPGRADE, ExitCode: 128, Reason: "StartError", Message: "no such file"},
		{ContainerName: "app", ContainerId: "e3" + hex[2:], Attempt: 2, State: pouchv1.GenerationState_GENERATION_STATE_RUNNING, Image: "sha256:" + hex, ImageRef: "r.example/app@sha256:" + hex,
			StartedAt: time.Now().Add(-5*time.Minute - time.Second).UnixNano(), OutageMs: proto.Int64(105)},
		{ContainerName: "app", ContainerId: "e4" + hex[2:], Attempt: 3, State: pouchv1.GenerationState_GENERATION_STATE_CREATED, Cause: pouchv1.Cause_CAUSE_RESTART, OutageMs: proto.Int64(0)},
	}
	now := time.Unix(0, f.history[2].StartedAt).Format("2006-01-02 15:04:05")
	want := `NAME   ATTEMPT   CONTAINER      CAUSE     IMAGE             DIGEST         HASH       STARTED               RAN   OUTAGE   STATE
app    0         e123456789ab   first     r.example/app:1   0123456789ab   5d1c8b3e   2026-01-12 09:00:02   2h    -        Exited (137) OOMKilled
app    1         e223456789ab   upgrade   ?[31mred          0123456789ab   77aa0f21   -                     -     -        Exited (128) StartError
app    2         e323456789ab   -         0123456789ab      0123456789ab   -          NOW   5m    105 ms   Running
app    3         e423456789ab   restart                                    -          -                     -     0 ms     Created
`
	for _, pod := range []string{"web", "prod/web", "a1"} {
		r := command(t, f, "", "history", pod)
		if r.code != 0 || r.out != strings.ReplaceAll(want, "NOW", now) {
			t.Errorf("%s: code %d, %s\n%s", pod, r.code, r.err, r.out)
		}
		if got := sent[*pouchv1.HistoryRequest](t, f).PodSandboxId; got != "a1"+hex[2:] {
			t.Errorf("asked for %s", got)
		}
	}
	r := command(t, f, "", "history", "web", "-o", "json")
	var got struct {
		Generations []struct{ ImageRef, OutageMs, Message string }
	}
	if err := json.Unmarshal([]byte(r.out), &got); err != nil || len(got.Generations) != 4 || got.Generations[2].OutageMs != "105" || got.Generations[1].Message != "no such file" {
		t.Errorf("%v of %s", err, r.out)
	}
	if r := command(t, f, "", "history", "none"); r.code != 1 || !strings.Contains(r.err, `no pod "none"`) {
		t.Errorf("code %d, %q", r.code, r.err)
	}
}

func TestEvents(t *testing.T) {
	at := time.Date(2026, 1, 12, 9, 0, 2, 5e6, time.Local)
	event := func(kind string, edit func(*pouchv1.Event)) *pouchv1.EventsResponse {
		e := &pouchv1.Event{Number: 7, Time: at.UnixNano(), Kind: kind, PodName: "web", PodNamespace: "prod", ContainerName: "app", Attempt: 3, Image: "r.example/app:2"}
		edit(e)
		return &pouchv1.EventsResponse{Event: e}
	}
	f := node()
	f.events = []*pouchv1.EventsResponse{
		event("created", func(*pouchv1.Event) {}),
		event("upgraded", func(e *pouchv1.Event) { e.OutageMs = proto.Int64(105) }),
		event("ended", func(e *pouchv1.Event) { e.ExitCode, e.Reason = proto.Int32(0), "Completed" }),
		event("start-failed", func(e *pouchv1.Event) { e.ExitCode, e.Message = proto.Int32(128), "no \x1b[31m file\nat all" }),
		event("pull-failed", func(e *pouchv1.Event) {
			e.ContainerName, e.PodName, e.PodNamespace, e.Message = "", "", "", "gone"
		}),
		event("removed", func(*pouchv1.Event) {}),
	}
	f.events[5].Missed = 12
	want := `2026-01-12 09:00:02.005  created         prod/web/app#3                  r.example/app:2
2026-01-12 09:00:02.005  upgraded        prod/web/app#3                  r.example/app:2, outage 105 ms
2026-01-12 09:00:02.005  ended           prod/web/app#3                  code 0, Completed
2026-01-12 09:00:02.005  start-failed    prod/web/app#3                  code 128, no ?[31m file?at all
2026-01-12 09:00:02.005  pull-failed     -                               r.example/app:2, gone
... 12 entries are missing here
2026-01-12 09:00:02.005  removed         prod/web/app#3
`
	r := command(t, f, "", "events")
	if r.code != 0 || r.out != want {
		t.Errorf("code %d, %s\n%s", r.code, r.err, r.out)
	}
	if got := sent[*pouchv1.EventsRequest](t, f); got.Follow || got.After != 0 || got.Since != 0 || got.Pod != "" {
		t.Errorf("asked for %v", got)
	}
	r = command(t, f, "", "events", "-f", "--pod", "prod/web", "--after", "6", "--since", "1h", "-o", "json")
	lines := strings.Split(strings.TrimSpace(r.out), "\n")
	if r.code != 0 || len(lines) != 6 || !strings.HasPrefix(lines[5], `{"event":{"number":"7",`) || !strings.HasSuffix(lines[5], `"missed":"12"}`) {
		t.Errorf("code %d, %s\n%s", r.code, r.err, r.out)
	}
	got := sent[*pouchv1.EventsRequest](t, f)
	if ago := time.Since(time.Unix(0, got.Since)); !got.Follow || got.After != 6 || got.Pod != "prod/web" || ago < time.Hour || ago > 2*time.Hour {
		t.Errorf("asked for %v", got)
	}
	f.fail["Events"] = status.Error(codes.Unavailable, "the daemon is stopping: unavailable")
	if r := command(t, f, "", "events", "-f"); r.code != 1 || !strings.Contains(r.err, "the daemon is stopping") {
		t.Errorf("code %d, %q", r.code, r.err)
	}
	if r := command(t, f, "", "events", "--since", "-1s"); r.code != 2 {
		t.Errorf("code %d, %q", r.code, r.err)
	}
	if r := command(t, f, "", "events", "-o", "name"); r.code != 2 {
		t.Errorf("code %d, %q", r.code, r.err)
	}
}
