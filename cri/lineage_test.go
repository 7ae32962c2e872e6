package cri

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/cri/model"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

// store is the durable side of a service: what a restart would find.
type store struct {
	Rootfs
	SandboxRecords
	sandboxes map[string][]byte
	fail      error
	removed   []string // without leaving anything
}

func (s *store) PutSandbox(_ context.Context, id string, b []byte) error {
	if s.fail != nil {
		return s.fail
	}
	s.sandboxes[id] = b
	return nil
}

func (s *store) Remove(_ context.Context, id string) error {
	s.removed = append(s.removed, id)
	if diskFull(s.fail) { // to remove something needs no space
		return nil
	}
	return s.fail
}

func (s *store) RemoveInto(_ context.Context, _, sandboxID string, b []byte) error {
	if s.fail == nil {
		s.sandboxes[sandboxID] = b
	}
	return s.fail
}

// history is what the record of a sandbox says.
func (s *store) history(t *testing.T, id string) []model.Generation {
	t.Helper()
	var rec model.Sandbox
	if err := json.Unmarshal(s.sandboxes[id], &rec); err != nil {
		t.Fatal(err)
	}
	return rec.History
}

// newLineageService gives a service that knows sandboxes and containers and nothing else.
func newLineageService(t *testing.T) (*Service, *store) {
	t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	st := &store{sandboxes: map[string][]byte{}}
	s := New(Options{Log: logrus.NewEntry(log), Rootfs: st, Records: st})
	t.Cleanup(s.Close)
	return s, st
}

func addSandbox(s *Service, id, uid string) *sandbox {
	sb := newSandbox(model.Sandbox{ID: id, CreatedAt: s.clock.now(), State: model.SandboxReady,
		Config: model.SandboxConfig{Name: "pod", Namespace: "ns", UID: uid}})
	sb.listed.Store(true)
	s.index.addSandbox(sb)
	return sb
}

// asked is a container's record with what decides on its lineage.
func asked(id, name, hash, image, imageID string) model.Container {
	rec := model.Container{ID: id, ImageID: imageID, Config: model.ContainerConfig{Name: name, UserImage: image}}
	if hash != "" {
		rec.Config.Annotations = map[string]string{hashAnnotation: hash}
	}
	return rec
}

// born adds a container as CreateContainer does.
func born(s *Service, sb *sandbox, rec model.Container) *container {
	rec.SandboxID, rec.CreatedAt = sb.id, s.clock.now()
	rec.Lineage = s.lineage(sb, rec)
	c := newContainer(rec)
	c.listed.Store(true)
	s.index.addContainer(c)
	return c
}

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// lived lets a container run from second to second.
func lived(c *container, from, to float64, reason string) {
	at := func(s float64) time.Time { return epoch.Add(time.Duration(s * float64(time.Second))) }
	c.mu.Lock()
	defer c.mu.Unlock()
	c.startedAt = at(from)
	c.rec.End = &model.End{StartedAt: at(from), FinishedAt: at(to), Reason: reason, ExitCode: 1}
	c.status = task.Stopped
}

func running(c *container, from float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.startedAt, c.status = epoch.Add(time.Duration(from*float64(time.Second))), task.Running
}

func (s *Service) forget(t *testing.T, c *container) {
	t.Helper()
	if err := s.removeRecord(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	s.index.dropContainer(c.id)
}

func TestTheCauseOfACreation(t *testing.T) {
	type request struct{ hash, image, id string }
	for _, tt := range []struct {
		name     string
		old, new request
		want     model.Cause
	}{
		{"the same hash is a restart", request{"abc", "a:1", "id1"}, request{"abc", "a:1", "id1"}, model.CauseRestart},
		{"another hash is an upgrade", request{"abc", "a:1", "id1"}, request{"abd", "a:2", "id2"}, model.CauseUpgrade},
		{"the same hash with a tag that has moved is a restart", request{"abc", "a:1", "id1"}, request{"abc", "a:1", "id2"}, model.CauseRestart},
		{"another hash with the same image is an upgrade", request{"abc", "a:1", "id1"}, request{"abd", "a:1", "id1"}, model.CauseUpgrade},
		{"without hashes the same image is a restart", request{"", "a:1", "id1"}, request{"", "a:1", "id1"}, model.CauseRestart},
		{"without hashes a tag that has moved is an upgrade", request{"", "a:1", "id1"}, request{"", "a:1", "id2"}, model.CauseUpgrade},
		{"without hashes another tag of one image is an upgrade", request{"", "a:1", "id1"}, request{"", "a:2", "id1"}, model.CauseUpgrade},
		{"a hash on one side decides nothing", request{"", "a:1", "id1"}, request{"abc", "a:1", "id1"}, model.CauseRestart},
		{"long hashes are compared as a whole", request{strings.Repeat("x", 1<<18) + "1", "a:1", "id1"}, request{strings.Repeat("x", 1<<18) + "2", "a:1", "id1"}, model.CauseUpgrade},
		{"equal long hashes are a restart", request{strings.Repeat("x", 1<<18), "a:1", "id1"}, request{strings.Repeat("x", 1<<18), "a:1", "id1"}, model.CauseRestart},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, removed := range []bool{false, true} {
				s, _ := newLineageService(t)
				sb := addSandbox(s, "sb1", "uid")
				before := born(s, sb, asked("old", "app", tt.old.hash, tt.old.image, tt.old.id))
				if got := before.rec.Lineage; got.Cause != model.CauseFirst || got.Predecessor != "" {
					t.Errorf("the first one has lineage %+v", got)
				}
				lived(before, 0, 1, reasonError)
				if removed {
					s.forget(t, before)
				}
				got := born(s, sb, asked("new", "app", tt.new.hash, tt.new.image, tt.new.id)).rec.Lineage
				if got.Cause != tt.want || got.Predecessor != "old" || len(got.Hash) > maxHash+len("sha256:") {
					t.Errorf("predecessor removed %v: lineage is %.200v, want %s", removed, got, tt.want)
				}
			}
		})
	}
}

func TestThePredecessorIsTheNewestThatRan(t *testing.T) {
	s, _ := newLineageService(t)
	old := addSandbox(s, "sb1", "uid")
	follows := func(sb *sandbox, want string) {
		t.Helper()
		if got := s.lineage(sb, asked("x", "app", "h", "a:1", "i")).Predecessor; got != want {
			t.Errorf("the predecessor is %q, want %q", got, want)
		}
	}
	app := func(sb *sandbox, id string) *container { return born(s, sb, asked(id, "app", "h", "a:1", "i")) }
	follows(old, "")
	c1 := app(old, "c1")
	follows(old, "") // it did not run
	lived(c1, 0, 1, reasonCompleted)
	follows(old, "c1")
	lived(app(old, "c2"), 2, 2, reasonStartError) // its program was not there
	follows(old, "c1")
	lived(born(s, old, asked("other", "side", "h", "a:1", "i")), 0, 1, reasonError)
	follows(old, "c1")
	lived(app(old, "c3"), 3, 4, reasonLost)
	follows(old, "c3")

	next := addSandbox(s, "sb2", "uid") // the pod's sandbox is made anew
	follows(next, "c3")
	running(app(next, "c4"), 5)
	follows(next, "c4")
	follows(addSandbox(s, "sb3", "another uid"), "")
	follows(addSandbox(s, "sb4", ""), "")
	follows(addSandbox(s, "sb5", ""), "")
}

func TestHistoryKeepsWhatWasRemoved(t *testing.T) {
	s, st := newLineageService(t)
	sb := addSandbox(s, "sb1", "uid")
	for i := range 30 {
		c := born(s, sb, asked(fmt.Sprintf("c%02d", i), "app", fmt.Sprint("h", i), "a:1", "i"))
		lived(c, float64(i), float64(i)+0.75, reasonError)
		s.forget(t, c)
	}
	side := born(s, sb, asked("side", "side", "h", "a:1", "i"))
	lived(side, 0, 1, reasonCompleted)
	s.forget(t, side)
	live := born(s, sb, asked("c30", "app", "h29", "a:1", "i"))
	running(live, 30)

	if got := st.history(t, "sb1"); len(got) != maxGenerations+1 || got[0].ID != "c10" {
		t.Fatalf("%d generations are kept, the first is %s", len(got), got[0].ID)
	}
	all := s.generations(sb)
	last := all[len(all)-1]
	if last.ID != "c30" || last.Lineage.Cause != model.CauseRestart || last.Lineage.Predecessor != "c29" || last.Outage == nil || *last.Outage != 250 {
		t.Errorf("the newest is %+v", last)
	}
	// The oldest kept one knows its outage, although its predecessor is forgotten.
	if g := all[0]; g.ID != "c10" || g.Outage == nil || *g.Outage != 250 || g.Lineage.Predecessor != "c09" || g.status != "" {
		t.Errorf("the oldest is %+v", g)
	}
}

func TestAnOutageThatNobodyKnows(t *testing.T) {
	s, _ := newLineageService(t)
	sb := addSandbox(s, "sb1", "uid")
	lived(born(s, sb, asked("c1", "app", "h", "a:1", "i")), 0, 10, reasonLost)
	lived(born(s, sb, asked("c2", "app", "h", "a:1", "i")), 11, 20, reasonError)
	running(born(s, sb, asked("c3", "app", "h", "a:1", "i")), 19.5) // did not wait for the end
	running(born(s, sb, asked("c4", "app", "h", "a:1", "i")), 21)   // while c3 goes on
	failed := born(s, sb, asked("c5", "app", "h", "a:1", "i"))
	lived(failed, 22, 22, reasonStartError)
	zero := int64(0)
	for i, want := range []*int64{nil, nil, &zero, nil, nil} {
		got := s.generations(sb)[i].Outage
		if (got == nil) != (want == nil) || got != nil && *got != *want {
			t.Errorf("outage of generation %d is %v, want %v", i, got, want)
		}
	}
}

func BenchmarkLineage(b *testing.B) {
	s := New(Options{Log: logrus.NewEntry(logrus.New())})
	defer s.Close()
	var last *sandbox
	for i := range 110 { // a full node, each pod with a history
		last = addSandbox(s, fmt.Sprint("sb", i), fmt.Sprint("uid", i))
		for j := range 3 * maxGenerations {
			last.rec.History = append(last.rec.History, model.Generation{ID: fmt.Sprint(i, "-", j), Name: fmt.Sprint("app", j%3), CreatedAt: s.clock.now()})
		}
		for j := range 6 {
			lived(born(s, last, asked(fmt.Sprint("c", i, "-", j), fmt.Sprint("app", j%3), "h", "a:1", "i")), 0, 1, reasonError)
		}
	}
	rec := asked("new", "app1", "h", "a:1", "i")
	for b.Loop() {
		if s.lineage(last, rec).Predecessor == "" {
			b.Fatal("no predecessor")
		}
	}
}

func TestHistoryLeavesOutWhatNeverRanOrWasNeverTold(t *testing.T) {
	s, st := newLineageService(t)
	sb := addSandbox(s, "sb1", "uid")
	st.sandboxes["sb1"] = []byte("{}")
	s.forget(t, born(s, sb, asked("created", "app", "h", "a:1", "i")))
	untold := born(s, sb, asked("untold", "app", "h", "a:1", "i"))
	untold.listed.Store(false)
	if got := s.generations(sb); len(got) != 0 {
		t.Errorf("history is %+v", got)
	}
	s.forget(t, untold)
	if got := st.history(t, "sb1"); len(got) != 0 {
		t.Errorf("history is %+v", got)
	}
	failed := born(s, sb, asked("failed", "app", "h", "a:1", "i"))
	lived(failed, 1, 1, reasonStartError)
	s.forget(t, failed)
	if got := st.history(t, "sb1"); len(got) != 1 || !got[0].StartedAt.IsZero() || got[0].Reason != reasonStartError {
		t.Errorf("history is %+v", got)
	}
}

func TestHistoryGoesToTheNextSandboxOfThePod(t *testing.T) {
	s, st := newLineageService(t)
	first := addSandbox(s, "sb1", "uid")
	c := born(s, first, asked("c1", "app", "h", "a:1", "i"))
	lived(c, 0, 1, reasonError)
	s.forget(t, c)
	stranger := addSandbox(s, "sb0", "another uid")
	second := addSandbox(s, "sb2", "uid")
	st.fail = errors.New("disk is full")
	if err := s.bequeath(t.Context(), first); err == nil || !strings.Contains(err.Error(), "sb2") {
		t.Errorf("the error is %v", err)
	}
	st.fail = nil
	for range 2 { // a retry doubles nothing
		if err := s.bequeath(t.Context(), first); err != nil {
			t.Fatal(err)
		}
	}
	s.index.dropSandbox("sb1")
	if got := s.generations(second); len(got) != 1 || got[0].ID != "c1" {
		t.Errorf("the next sandbox has %+v", got)
	}
	if got := st.history(t, "sb2"); len(got) != 1 {
		t.Errorf("its record has %+v", got)
	}
	if got := s.generations(stranger); len(got) != 0 {
		t.Errorf("another pod has %+v", got)
	}
	// One that leaves itself takes nothing: its record must not come back.
	third := addSandbox(s, "sb3", "uid")
	third.leave()
	if err := s.bequeath(t.Context(), second); err != nil || st.sandboxes["sb3"] != nil {
		t.Errorf("%v, %s", err, st.sandboxes["sb3"])
	}
}

// On a full disk things can still be removed, which is what the disk needs.
func TestHistoryIsNotInTheWayOnAFullDisk(t *testing.T) {
	s, st := newLineageService(t)
	first := addSandbox(s, "sb1", "uid")
	c1, c2 := born(s, first, asked("c1", "app", "h", "a:1", "i")), born(s, first, asked("c2", "app", "h", "a:1", "i"))
	lived(c1, 0, 1, reasonError)
	lived(c2, 2, 3, reasonError)
	s.forget(t, c1)
	if len(st.removed) != 0 {
		t.Errorf("%q left nothing behind", st.removed)
	}
	st.fail = fmt.Errorf("write: %w", &fs.PathError{Op: "write", Path: "meta.db", Err: unix.ENOSPC})
	s.forget(t, c2)
	if len(st.removed) != 1 || len(first.record().History) != 1 {
		t.Errorf("%q are removed without history, which is %v", st.removed, first.record().History)
	}
	second := addSandbox(s, "sb2", "uid")
	if err := s.bequeath(t.Context(), first); err != nil || len(second.record().History) != 0 {
		t.Errorf("%v, %v", err, second.record().History)
	}
}

func TestHistoryIsBounded(t *testing.T) {
	s, st := newLineageService(t)
	sb := addSandbox(s, "sb1", "uid")
	long := strings.Repeat("ä", 1<<19)
	var many []model.Generation
	for i := range maxAllGenerations + 49 {
		many = append(many, model.Generation{
			ID: fmt.Sprintf("c%03d", i), Name: fmt.Sprint("name", i), CreatedAt: s.clock.now(),
			Image: bounded(long, maxImage), ImageRef: bounded(long, maxImage), Message: bounded(long, maxMessage),
		})
	}
	sb.rec.History = merged(nil, many)
	rec := asked("last", "app", long, "x"+long, "i")
	rec.ImageRef = "xx" + long
	c := born(s, sb, rec)
	lived(c, 0, 1, reasonError)
	c.rec.End.Message = long
	s.forget(t, c)
	got := st.history(t, "sb1")
	if len(got) != maxAllGenerations || got[0].ID != "c050" {
		t.Errorf("%d generations are kept, the first is %s", len(got), got[0].ID)
	}
	g := got[len(got)-1]
	for _, text := range []string{g.Image, g.ImageRef, g.Lineage.Hash, g.Message} {
		if len(text) > maxImage || len(text) < maxHash || !utf8.ValidString(text) {
			t.Errorf("a text has %d bytes: %.20q", len(text), text)
		}
	}
	if n := len(st.sandboxes["sb1"]); n > 1<<20 {
		t.Errorf("the record has %d bytes", n)
	}
}

// A container is removed while its sandbox is written for another reason: neither change is lost.
func TestHistoryAndOtherChangesOfARecord(t *testing.T) {
	s, st := newLineageService(t)
	sb := addSandbox(s, "sb1", "uid")
	const many = 15
	done := make(chan error, 2*many)
	for i := range many {
		c := born(s, sb, asked(fmt.Sprint("c", i), "app", "h", "a:1", "i"))
		lived(c, 0, 1, reasonError)
		go func() { done <- s.removeRecord(t.Context(), c) }()
		go func() {
			done <- s.updateSandbox(t.Context(), sb, func(rec *model.Sandbox) { rec.IPs = append(rec.IPs[:len(rec.IPs):len(rec.IPs)], fmt.Sprint(i)) })
		}()
	}
	for range 2 * many {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	var rec model.Sandbox
	if err := json.Unmarshal(st.sandboxes["sb1"], &rec); err != nil {
		t.Fatal(err)
	}
	if len(rec.History) != many || len(rec.IPs) != many {
		t.Errorf("%d generations and %d changes are recorded, want %d of each", len(rec.History), len(rec.IPs), many)
	}
}
