package cri

import (
	"time"

	"github.com/cri-pouch/cri-pouch/cri/model"
	"github.com/cri-pouch/cri-pouch/internal/journal"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

// A daemon that is killed between doing something and writing it into the journal leaves that to the next one.

// told is what the journal has already.
type told struct {
	off    bool      // there is no journal, nothing can be caught up with
	oldest time.Time // what is older may have been told and forgotten
	kinds  map[string]map[journal.Kind]bool
	last   map[string]journal.Entry // of each container
	rich   map[string]richTold
	hooks  map[string]map[string]bool // of each container, by hookKey and nodeHookKey
}

func (s *Service) readJournal() told {
	t := told{
		off: s.Journal == nil, kinds: map[string]map[journal.Kind]bool{}, last: map[string]journal.Entry{},
		rich: map[string]richTold{}, hooks: map[string]map[string]bool{},
	}
	if t.off {
		return t
	}
	reader, err := s.Journal.Reader(0)
	if err != nil { // 0 is always there
		return told{off: true}
	}
	for found := reader.Next(64); len(found) > 0; found = reader.Next(64) {
		for _, e := range found {
			if t.oldest.IsZero() {
				t.oldest = e.Time
			}
			if e.ContainerID == "" {
				continue
			}
			if t.kinds[e.ContainerID] == nil {
				t.kinds[e.ContainerID] = map[journal.Kind]bool{}
			}
			t.kinds[e.ContainerID][e.Kind] = true
			t.last[e.ContainerID] = e.Entry
			t.addRich(e.Entry)
			t.addHook(e.Entry)
		}
	}
	return t
}

// addRich takes what happened inside of a rich container.
func (t told) addRich(e journal.Entry) {
	r := t.rich[e.ContainerID]
	switch e.Kind {
	case journal.AppRestarted:
		r.until = e.Time
	case journal.UnitFailed:
		r.failed++
	default:
		return
	}
	t.rich[e.ContainerID] = r
}

// inside gives what was told of the inside of a container that was started at some time. Of what the journal may have
// forgotten nothing is told again.
func (t told) inside(id string, startedAt time.Time) richTold {
	r := t.rich[id]
	switch {
	case t.off:
		return richTold{until: time.Now(), failed: -1}
	case startedAt.Before(t.oldest):
		r.failed = -1
		if r.until.Before(t.oldest) {
			r.until = t.oldest
		}
	}
	return r
}

// has says whether one of kinds, which happened at some time, was told.
func (t told) has(id string, at time.Time, kinds ...journal.Kind) bool {
	for _, k := range kinds {
		if t.kinds[id][k] {
			return true
		}
	}
	return t.off || at.Before(t.oldest)
}

// catchUp tells what was not told of a recovered container's creation, start and end. It comes before anything new is.
func (s *Service) catchUp(c *container, t told, info task.Info) {
	rec := c.view().rec
	if !t.has(c.id, rec.CreatedAt, journal.Created) {
		s.note(c, journal.Entry{Kind: journal.Created, Time: rec.CreatedAt})
	}
	c.hooksTold, c.toldUntil = t.hooks[c.id], t.oldest
	if t.off {
		c.toldUntil = time.Now()
	}
	if at := startOf(rec, info); !at.IsZero() {
		c.startTold = t.has(c.id, at, journal.Started)
		s.tellStarted(c, at)
	}
	if rec.End != nil && !t.has(c.id, rec.End.FinishedAt, journal.Ended, journal.Lost, journal.StartFailed) {
		s.tellEnded(c, *rec.End)
	}
}

// startOf is when a recovered container was started; zero where it was not, or where nobody knows.
func startOf(rec model.Container, info task.Info) time.Time {
	switch {
	case rec.End != nil && rec.End.Reason == reasonStartError:
		return time.Time{}
	case rec.End != nil:
		return rec.End.StartedAt
	case info.Status == task.Created:
		return time.Time{}
	}
	return info.StartedAt
}

// tellGone tells of containers that were removed without a word: records has all that are there, but for findings.
func (s *Service) tellGone(t told, records map[string]model.Container) {
	for id, e := range t.last {
		_, there := records[id]
		_, found := s.findings.get(id)
		if there || found || t.kinds[id][journal.Removed] {
			continue
		}
		s.write(journal.Entry{
			Kind: journal.Removed, SandboxID: e.SandboxID, Pod: e.Pod, Namespace: e.Namespace, UID: e.UID,
			ContainerID: id, Name: e.Name, Attempt: e.Attempt, Image: e.Image, ImageRef: e.ImageRef,
		})
	}
}

// addHook notes a hook that was told of.
func (t told) addHook(e journal.Entry) {
	if e.Kind != journal.Hook {
		return
	}
	if t.hooks[e.ContainerID] == nil {
		t.hooks[e.ContainerID] = map[string]bool{}
	}
	t.hooks[e.ContainerID][hookKeyOf(e.Message)] = true
	t.hooks[e.ContainerID][nodeHookKey(e.Time)] = true
}
