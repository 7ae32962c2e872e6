package cri

import (
	"context"
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
	"github.com/cri-pouch/cri-pouch/cri/model"
	"github.com/cri-pouch/cri-pouch/internal/journal"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

func (s *store) Update(context.Context, string, []byte) error { return s.fail }

func (s *store) Unmount(context.Context, string) error { return nil }

// emptyShim holds nothing.
type emptyShim struct{ task.Runtime }

func (emptyShim) Delete(context.Context, string) (task.Exit, error) { return task.Exit{}, nil }

// newTellingService has a journal.
func newTellingService(t *testing.T) *Service {
	t.Helper()
	s, _ := newLineageService(t)
	j, err := journal.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	s.Journal, s.Runtime = j, emptyShim{}
	return s
}

// kinds is what the journal has of a container, in order.
func kinds(t *testing.T, s *Service, id string) (all []string) {
	t.Helper()
	r, err := s.Journal.Reader(0)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range r.Next(1 << 20) {
		if f.ContainerID == id {
			all = append(all, string(f.Kind))
		}
	}
	return all
}

// The shim's word of a program's end can be quicker than its answer to the start.
func TestTheStartIsToldOnceAndBeforeTheEnd(t *testing.T) {
	s := newTellingService(t)
	sb := addSandbox(s, "sb1", "uid")
	const many = 100
	events, leave := s.events.subscribe()
	defer leave()
	var wg sync.WaitGroup
	for i := range many {
		c := born(s, sb, asked(fmt.Sprint("c", i), fmt.Sprint("app", i), "h", "a:1", "i"))
		s.tellCreated(c)
		wg.Go(func() { s.tellStarted(c, epoch) })
		wg.Go(func() {
			s.finish(t.Context(), c, model.End{StartedAt: epoch, FinishedAt: epoch.Add(time.Second), Reason: reasonCompleted})
		})
	}
	wg.Wait()
	got := map[string][]runtime.ContainerEventType{}
	for range 3 * many {
		e := <-events
		got[e.ContainerId] = append(got[e.ContainerId], e.ContainerEventType)
		for _, st := range e.ContainersStatuses {
			if st.Id == e.ContainerId && e.ContainerEventType == runtime.ContainerEventType_CONTAINER_STARTED_EVENT && st.State != runtime.ContainerState_CONTAINER_RUNNING {
				t.Errorf("told as started, %s is %s", e.ContainerId, st.State)
			}
		}
	}
	want := []runtime.ContainerEventType{
		runtime.ContainerEventType_CONTAINER_CREATED_EVENT, runtime.ContainerEventType_CONTAINER_STARTED_EVENT, runtime.ContainerEventType_CONTAINER_STOPPED_EVENT,
	}
	for i := range many {
		id := fmt.Sprint("c", i)
		if !slices.Equal(got[id], want) {
			t.Errorf("events of %s: %v", id, got[id])
		}
		if k := kinds(t, s, id); strings.Join(k, " ") != "created started ended" {
			t.Errorf("journal of %s: %q", id, k)
		}
		if c, err := s.index.container(id); err != nil || c.view().status != task.Stopped || !c.view().startedAt.Equal(epoch) {
			t.Errorf("%s is %+v", id, c.view())
		}
	}
}

func TestUpgradesAreCounted(t *testing.T) {
	s := newTellingService(t)
	registry := prometheus.NewRegistry()
	s.upgrades = newUpgradeMetrics(registry)
	sb := addSandbox(s, "sb1", "uid")
	start := func(id, hash string, from float64) *container {
		c := born(s, sb, asked(id, "app", hash, "a:1", "i"))
		s.tellStarted(c, epoch.Add(time.Duration(from*float64(time.Second))))
		return c
	}
	lived(start("c1", "v1", 0), 0, 10, reasonError)
	lived(start("c2", "v1", 11), 11, 20, reasonError) // a restart is no upgrade
	failed := born(s, sb, asked("c3", "app", "v2", "a:2", "i2"))
	s.finish(t.Context(), failed, model.End{StartedAt: epoch, FinishedAt: epoch, Reason: reasonStartError, Message: "no such file", ExitCode: 128})
	start("c4", "v3", 20.125)
	start("c5", "v4", 21) // beside a predecessor that still runs: no outage is known
	page := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(page, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{
		`cri_pouch_upgrades_total{result="succeeded"} 2`, `cri_pouch_upgrades_total{result="failed"} 1`,
		"cri_pouch_upgrade_outage_seconds_count 1", "cri_pouch_upgrade_outage_seconds_sum 0.125", `cri_pouch_upgrade_outage_seconds_bucket{le="0.15"} 1`,
	} {
		if !strings.Contains(page.Body.String(), want+"\n") {
			t.Errorf("%s is not in\n%s", want, page.Body)
		}
	}
	if k := kinds(t, s, "c3"); strings.Join(k, " ") != "start-failed upgrade-failed" {
		t.Errorf("the failed one: %q", k)
	}
}

// journalStream is a client of Events.
type journalStream struct {
	grpc.ServerStream
	ctx  context.Context
	send func(*pouchv1.EventsResponse) error
}

func (s *journalStream) Context() context.Context             { return s.ctx }
func (s *journalStream) Send(e *pouchv1.EventsResponse) error { return s.send(e) }

func TestAClientOfEventsThatIsTooSlow(t *testing.T) {
	s := newTellingService(t)
	add := func(n int, id, pod string) {
		for range n {
			s.write(journal.Entry{Kind: journal.Created, ContainerID: id, Pod: pod, Message: strings.Repeat("x", 900)})
		}
	}
	add(3, "early", "web")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var got []*pouchv1.EventsResponse
	stream := &journalStream{ctx: ctx, send: func(e *pouchv1.EventsResponse) error {
		got = append(got, e)
		switch len(got) {
		case 1: // while it is busy with the first one, much happens
			add(3000, "flood", "other")
			add(1, "late", "web")
		case 2:
			cancel()
		}
		return nil
	}}
	if err := s.Events(&pouchv1.EventsRequest{Follow: true, Pod: "web"}, stream); err != nil {
		t.Errorf("the stream ends with %v", err)
	}
	if len(got) != 2 || got[1].Event.ContainerId != "late" || got[1].Missed == 0 || got[1].Event.Number != 3004 {
		t.Errorf("got %v", got)
	}
	// One that is not followed ends where the journal ended when it was asked for.
	count := 0
	stream.ctx, stream.send = t.Context(), func(*pouchv1.EventsResponse) error { count++; add(1, "more", "web"); return nil }
	if err := s.Events(&pouchv1.EventsRequest{Pod: "web"}, stream); err != nil || count != 1 {
		t.Errorf("%d events, %v", count, err)
	}
	s.Close()
	if err := s.Events(&pouchv1.EventsRequest{Follow: true, After: s.Journal.Newest()}, stream); err == nil || !strings.Contains(err.Error(), "stopping") {
		t.Errorf("with the daemon's end the stream ends with %v", err)
	}
}
