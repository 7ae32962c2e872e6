package cri

import (
	"path/filepath"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"github.com/cri-pouch/cri-pouch/internal/journal"
	"github.com/cri-pouch/cri-pouch/internal/richrun"
)

const (
	// recordPause is the least time between two looks at one record, and recordRest times as long as a look took: the container's
	// root can write to it as often and as much as it likes.
	recordPause = 200 * time.Millisecond
	recordRest  = 20
)

// followers watch the records that launchers write, so that what happens inside of a rich container is told while it
// happens: restarts of the application, and units that have failed.
type followers struct {
	s        *Service
	log      *logrus.Entry
	restarts prometheus.Counter
	failures prometheus.Counter

	mu    sync.Mutex
	watch *fsnotify.Watcher // nil until the first rich container, and where the kernel gives none
	of    map[string]*follower
}

// follower is one container that is followed.
type follower struct {
	c      *container
	mu     sync.Mutex // one telling at a time
	starts int        // told of, like failed
	failed int
	due    bool // a look is planned
	pause  time.Duration
}

func newFollowers(s *Service) *followers {
	f := &followers{
		s: s, log: s.Log, of: map[string]*follower{},
		restarts: prometheus.NewCounter(prometheus.CounterOpts{Name: "cri_pouch_app_restarts_total", Help: "Restarts of applications inside of rich containers."}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{Name: "cri_pouch_app_unit_failures_total", Help: "Failures of watched units and components inside of rich containers."}),
	}
	if s.Metrics != nil {
		s.Metrics.MustRegister(f.restarts, f.failures)
	}
	return f
}

// follow begins with a running container; before is what was told of it by a daemon before this one.
func (f *followers) follow(c *container, before richTold) {
	if rich := c.view().rec.Rich; rich == nil {
		return
	}
	record, err := richrun.ReadRecord(f.s.bundleDir(c.id))
	if err != nil {
		return // a mode without a launcher
	}
	one := &follower{c: c, pause: recordPause}
	one.starts, one.failed = before.of(record)
	path := f.path(c.id)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.of[path] != nil {
		return
	}
	if f.watch == nil && !f.open() {
		return
	}
	if err := f.watch.Add(path); err != nil {
		f.log.WithField("container", c.id).WithError(err).Warn("restarts inside of the container are told at its end only")
	}
	f.of[path] = one
	f.planLocked(path) // what was written before the watch
}

// richTold is what the journal has of a container that an earlier daemon followed; its zero value is nothing.
type richTold struct {
	until  time.Time // starts of the application up to then have been told
	failed int       // failures of units, -1: all that there are
}

// of gives how many of a record's starts and of its failed units have been told.
func (t richTold) of(r richrun.Record) (starts, failed int) {
	starts = r.Starts - len(r.Runs)
	for i, run := range r.Runs {
		if !run.StartedAt.After(t.until) {
			starts = r.Starts - len(r.Runs) + i + 1
		}
	}
	if t.failed < 0 {
		return starts, len(r.Units)
	}
	return starts, t.failed
}

func (f *followers) path(id string) string {
	return filepath.Join(f.s.bundleDir(id), richrun.Dir, richrun.RecordFile)
}

// open makes the watcher; f.mu is held.
func (f *followers) open() bool {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		f.log.WithError(err).Warn("restarts inside of rich containers are not told")
		return false
	}
	f.watch = w
	go func() {
		for e := range w.Events {
			if e.Has(fsnotify.Write) {
				f.plan(e.Name)
			}
		}
	}()
	go func() {
		for err := range w.Errors {
			f.log.WithError(err).Warn("watch the records of rich containers")
		}
	}()
	return true
}

// plan has a record looked at soon, and once for all that is written until then.
func (f *followers) plan(path string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.planLocked(path)
}

func (f *followers) planLocked(path string) {
	one := f.of[path]
	if one == nil || one.due {
		return
	}
	one.due = true
	time.AfterFunc(one.pause, func() {
		f.mu.Lock()
		one.due = false
		f.mu.Unlock()
		begun := time.Now()
		f.tell(one)
		f.mu.Lock()
		one.pause = max(recordPause, recordRest*time.Since(begun))
		f.mu.Unlock()
	})
}

// tell notes what has been written since the last look.
func (f *followers) tell(one *follower) {
	one.mu.Lock()
	defer one.mu.Unlock()
	record, err := richrun.ReadRecord(f.s.bundleDir(one.c.id))
	if err != nil {
		return
	}
	for i, run := range record.Runs {
		if number := record.Starts - len(record.Runs) + i + 1; number <= max(one.starts, 1) {
			continue
		}
		e := journal.Entry{Kind: journal.AppRestarted, Time: run.StartedAt}
		if i > 0 && record.Runs[i-1].Ended {
			code := int32(record.Runs[i-1].Code)
			e.ExitCode = &code
		}
		f.s.note(one.c, e)
	}
	if more := record.Starts - max(one.starts, 1); more > 0 {
		f.restarts.Add(float64(more))
	}
	for _, unit := range record.Units[min(one.failed, len(record.Units)):] {
		f.s.note(one.c, journal.Entry{Kind: journal.UnitFailed, Message: unit})
		f.failures.Inc()
	}
	one.starts, one.failed = max(one.starts, record.Starts), max(one.failed, len(record.Units))
}

// leave tells the rest of a container that has ended.
func (f *followers) leave(c *container) {
	path := f.path(c.id)
	f.mu.Lock()
	one := f.of[path]
	if one != nil {
		delete(f.of, path)
		_ = f.watch.Remove(path)
	}
	if len(f.of) == 0 && f.watch != nil { // a node without rich containers has nothing of this
		_ = f.watch.Close()
		f.watch = nil
	}
	f.mu.Unlock()
	if one != nil {
		f.tell(one)
	}
}

func (f *followers) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.watch != nil {
		_ = f.watch.Close()
	}
}
