package cri

import (
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"github.com/cri-pouch/cri-pouch/internal/crash"
	"github.com/cri-pouch/cri-pouch/internal/filewatch"
	"github.com/cri-pouch/cri-pouch/internal/journal"
	"github.com/cri-pouch/cri-pouch/internal/richrun"
)

const (
	// recordPause is the least time between two looks at one record, and recordRest times as long as a look took: the container's
	// root can write to it as often and as much as it likes.
	recordPause = 200 * time.Millisecond
	recordRest  = 20
	// tellBurst entries a container may have in the journal at once, and one more after each tellPause: it keeps a few thousand
	// of the whole node.
	tellBurst = 32
	tellPause = 10 * time.Second
)

// followers watch the records that launchers write, so that what happens inside of a rich container is told while it
// happens: restarts of the application, and units that have failed.
type followers struct {
	s        *Service
	log      *logrus.Entry
	restarts prometheus.Counter
	failures prometheus.Counter

	mu    sync.Mutex
	watch *filewatch.Watcher   // nil until the first rich container
	of    map[string]*follower // by the container's ID
}

// follower is one container that is followed.
type follower struct {
	c         *container
	mu        sync.Mutex // one telling at a time
	starts    int        // told of, like failed
	failed    int
	allowance allowance
	// due, pause and watch are guarded by the followers' lock.
	due   bool // a look is planned
	pause time.Duration
	watch filewatch.ID
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
	one := &follower{c: c, pause: recordPause, watch: filewatch.None, allowance: newAllowance()}
	one.starts, one.failed = before.of(record)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.of[c.id] != nil {
		return
	}
	if f.watch == nil {
		f.watch = filewatch.New(f.log)
	}
	f.of[c.id] = one
	f.planLocked(one) // it watches from then on, and finds what has been written before
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

// plan has a record looked at soon, and once for all that is written until then.
func (f *followers) plan(one *follower) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.planLocked(one)
}

func (f *followers) planLocked(one *follower) {
	if one.due || f.of[one.c.id] != one {
		return
	}
	one.due = true
	time.AfterFunc(one.pause, crash.Guard(f.log, "look at the record of container "+one.c.id, func() { f.look(one) }))
}

// look has the next write to a record told, and tells what has been written.
func (f *followers) look(one *follower) {
	begun := time.Now()
	f.mu.Lock()
	one.due = false
	if f.of[one.c.id] != one { // it has ended
		f.mu.Unlock()
		return
	}
	var err error
	one.watch, err = f.watch.Once(filepath.Join(f.s.bundleDir(one.c.id), richrun.Dir, richrun.RecordFile), func() { f.plan(one) })
	f.mu.Unlock()
	if err != nil {
		f.log.WithField("container", one.c.id).WithError(err).Warn("restarts inside of the container are told at its end only")
	}
	rest := f.tell(one)
	f.mu.Lock()
	defer f.mu.Unlock()
	one.pause = max(recordPause, recordRest*time.Since(begun))
	if rest {
		one.pause = max(one.pause, tellPause)
		f.planLocked(one)
	}
}

// tell notes what has been written since the last look, and says whether there is more than the journal may have now.
func (f *followers) tell(one *follower) (rest bool) {
	one.mu.Lock()
	defer one.mu.Unlock()
	record, err := richrun.ReadRecord(f.s.bundleDir(one.c.id))
	if err != nil {
		return false
	}
	one.allowance.refill(time.Now())
	f.tellRestarts(one, record)
	for one.failed < len(record.Units) && one.allowance.take() {
		f.s.note(one.c, journal.Entry{Kind: journal.UnitFailed, Message: record.Units[one.failed]})
		f.failures.Inc()
		one.failed++
	}
	return one.failed < len(record.Units) || max(one.starts, 1) < record.Starts
}

// tellRestarts notes the last restarts of those that are new, and how many there were before them. Of runs that the record
// has no more only their number is known.
func (f *followers) tellRestarts(one *follower, record richrun.Record) {
	fresh := record.Starts - max(one.starts, 1)
	if fresh <= 0 || one.allowance.left == 0 {
		return
	}
	listed := min(fresh, len(record.Runs), one.allowance.left)
	message := ""
	if more := fresh - listed; more > 0 {
		message = fmt.Sprintf("%d restarts before this one are not listed", more)
	}
	for i := len(record.Runs) - listed; i < len(record.Runs); i++ {
		e := journal.Entry{Kind: journal.AppRestarted, Time: record.Runs[i].StartedAt, Message: message}
		if i > 0 && record.Runs[i-1].Ended {
			code := int32(record.Runs[i-1].Code)
			e.ExitCode = &code
		}
		f.s.note(one.c, e)
		one.allowance.take()
		message = ""
	}
	f.restarts.Add(float64(fresh))
	one.starts = record.Starts
}

// leave tells the rest of a container that has ended.
func (f *followers) leave(c *container) {
	f.mu.Lock()
	one := f.of[c.id]
	if one != nil {
		delete(f.of, c.id)
		f.watch.Forget(one.watch)
	}
	if len(f.of) == 0 && f.watch != nil { // a node without rich containers has nothing of this
		f.watch.Close()
		f.watch = nil
	}
	f.mu.Unlock()
	if one != nil {
		one.mu.Lock()
		one.allowance.fill()
		one.mu.Unlock()
		f.tell(one)
	}
}

func (f *followers) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.watch != nil {
		f.watch.Close()
	}
	f.watch, f.of = nil, map[string]*follower{}
}
