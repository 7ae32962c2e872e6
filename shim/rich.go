package shim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/crash"
	"github.com/cri-pouch/cri-pouch/internal/filewatch"
	"github.com/cri-pouch/cri-pouch/internal/pollfile"
	"github.com/cri-pouch/cri-pouch/internal/richrun"
)

const (
	// alonePoll is how often an init that never ends by itself is looked at during its shutdown: nothing tells that it is the
	// last process.
	alonePoll = 20 * time.Millisecond
	// aloneLooks is how many looks in a row must find it alone: between two of its shutdown scripts it is so for a moment.
	aloneLooks = 5
	// oomSettle is how long after a kill by the OOM killer an application that goes on was not meant by it.
	oomSettle = 200 * time.Millisecond
	// unitFailedCode is the exit code of a container that a watched unit's failure ended.
	unitFailedCode = 1
	// tellAgain is how long after the shutdown signal it is sent again, and then after twice as long each time: an init that has
	// only begun ignores it.
	tellAgain = 300 * time.Millisecond
	// readRest times as long as a look at the record took, the next one has to wait, and at most readRestMax: root in the container
	// can make it long, and write to it for ever.
	readRest    = 20
	readRestMax = time.Second
	// neverStartedCode stands for an application whose init ended well before it was started.
	neverStartedCode = 255
)

// rich watches over a container whose pid 1 is a real init and whose application is one of its services. The container's
// end is decided by the launcher's record: then the init is told to shut down, and the exit code is the application's.
type rich struct {
	c       *container
	plan    richrun.Plan
	control *pollfile.File
	record  filewatch.ID
	polls   bool          // the record cannot be watched
	unread  bool          // it could not be read the last time
	news    chan struct{} // the record has changed, or something else to look at
	quit    chan struct{} // pid 1 has ended
	over    sync.WaitGroup

	mu       sync.Mutex
	closed   bool
	progress richrun.Progress
	// settling says that a look after a kill by the OOM killer is due, struckAgain that it is to be followed by another.
	settling, struckAgain bool
}

// newRich is nil for a plain container.
func newRich(c *container) (*rich, error) {
	plan, err := richrun.ReadPlan(c.bundle)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if plan.Shutdown < 1 || plan.Shutdown > 64 || plan.ShutdownTimeout < 0 {
		return nil, fmt.Errorf("plan of container %s: signal %d, timeout %s: %w", c.id, plan.Shutdown, plan.ShutdownTimeout, errdefs.ErrInvalidArgument)
	}
	return &rich{c: c, plan: plan, record: filewatch.None, news: make(chan struct{}, 1), quit: make(chan struct{})}, nil
}

// start begins to watch, before the init runs.
func (r *rich) start() (err error) {
	dir := filepath.Join(r.c.bundle, richrun.Dir)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return fmt.Errorf("the init of container %s has ended: %w", r.c.id, errdefs.ErrFailedPrecondition)
	}
	r.save() // not what a start before this one has left
	if r.control, err = openFIFO(filepath.Join(dir, richrun.ControlFIFO), unix.O_RDWR); err != nil {
		return err
	}
	if err := r.arm(); err != nil {
		return err
	}
	r.over.Go(crash.Guard(r.c.log, "watch over a rich container", r.watchOver))
	return nil
}

// watchOver is run. Nobody else would end a container whose application is over: after a panic it is killed.
func (r *rich) watchOver() {
	if crash.Run(r.c.log, "watch over the application", r.run) {
		return
	}
	if err := r.c.kill(context.Background(), unix.SIGKILL, true); err != nil && !r.c.init.fd.Ended() {
		r.c.log.WithError(err).Error("processes of a container that nobody watches over stay")
	}
}

// run waits until the container is to end, and ends it.
func (r *rich) run() {
	record, lost, rest := r.look()
	for !lost && !r.finished(record) {
		select {
		case <-r.news:
		case <-r.quit:
			return
		}
		select {
		case <-time.After(rest):
		case <-r.quit:
			return
		}
		record, lost, rest = r.look()
	}
	r.mu.Lock()
	r.progress.Because = r.because(record, lost)
	r.save()
	r.mu.Unlock()
	r.shutDown()
}

// because says why the container is to end.
func (r *rich) because(record richrun.Record, lost bool) richrun.Because {
	switch {
	case record.Done:
		return richrun.ApplicationEnded
	case r.failedUnit(record):
		return richrun.UnitFailed
	case lost:
		return richrun.LauncherLost
	}
	return richrun.StopAsked
}

// save keeps the progress on tmpfs.
func (r *rich) save() {
	if err := r.progress.Write(r.c.bundle); err != nil {
		r.c.log.WithError(err).Error("others do not know how far the container is")
	}
}

// arm has the next write to the record told, and only that: a loop inside that writes to it must not cost the shim anything
// between two looks.
func (r *rich) arm() (err error) {
	r.record, err = r.c.s.files.Once(filepath.Join(r.c.bundle, richrun.Dir, richrun.RecordFile), func() { signal(r.news) })
	return err
}

// look gives the record, after which news of it come again, whether its launcher has been killed, and how long to wait before
// the next look.
func (r *rich) look() (record richrun.Record, lost bool, rest time.Duration) {
	begun := time.Now()
	if err := r.arm(); err != nil {
		if !r.polls {
			r.c.log.WithError(err).Warn("the launcher's record is looked at from time to time only")
		}
		r.polls = true
		signal(r.news)
		record, lost = r.read()
		return record, lost, readRestMax
	}
	record, lost = r.read()
	if r.unread {
		return record, lost, readRestMax
	}
	return record, lost, min(readRest*time.Since(begun), readRestMax)
}

// read gives the record, and whether its launcher has been killed. A record that cannot be read has nothing in it: it is on
// tmpfs, and only root inside can be the reason, by a lease for instance (fcntl(2)).
func (r *rich) read() (richrun.Record, bool) {
	record, lost, err := richrun.ReadLiveRecord(r.c.bundle)
	if err != nil && !r.unread {
		r.c.log.WithError(err).Error("the launcher's record")
	}
	r.unread = err != nil
	r.accountOOM(record)
	return record, lost
}

// finished says whether nothing more is to be waited for: the application is done, a watched unit has failed, or the client
// wants an end of all, or of the application before there was one.
func (r *rich) finished(record richrun.Record) bool {
	r.mu.Lock()
	stopped, all := r.progress.Stopped, r.progress.All
	r.mu.Unlock()
	_, running := record.Running()
	return record.Done || r.failedUnit(record) || all || stopped && !running
}

func (r *rich) failedUnit(record richrun.Record) bool {
	return slices.ContainsFunc(record.Units, func(u string) bool { return slices.Contains(r.plan.WatchUnits, u) })
}

// stop passes the client's stop signal to the application; with all the init shuts down, whatever the application does.
func (r *rich) stop(s unix.Signal, all bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return fmt.Errorf("cannot stop container %s: it is stopped: %w", r.c.id, errdefs.ErrFailedPrecondition)
	}
	if r.control == nil {
		return fmt.Errorf("container %s has not been started: %w", r.c.id, errdefs.ErrFailedPrecondition)
	}
	r.progress.Stopped, r.progress.All = true, r.progress.All || all
	r.save()
	defer signal(r.news)
	// A FIFO that is full has stops enough in it, or root inside has filled it: nobody waits for that.
	if err := writeNow(r.control, fmt.Sprintf("stop %d\n", s)); err != nil && !errors.Is(err, unix.EAGAIN) {
		return fmt.Errorf("stop the application of container %s: %w", r.c.id, err)
	}
	return nil
}

// writeNow writes what there is room for at once: EAGAIN says that there is none. os.File would wait for it.
func writeNow(f *pollfile.File, text string) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var writeErr error
	err = raw.Control(func(fd uintptr) { _, writeErr = unix.Write(int(fd), []byte(text)) })
	return errors.Join(err, writeErr)
}

// shutDown makes the init end its services and itself; past the timeout everything is killed.
func (r *rich) shutDown() {
	pause := tellAgain
	again := time.NewTimer(pause)
	defer again.Stop()
	r.tell()
	late := time.NewTimer(r.plan.ShutdownTimeout)
	defer late.Stop()
	var look <-chan time.Time
	if r.plan.KillWhenAlone {
		look = time.After(alonePoll)
	}
	alone := 0
	for waiting := true; waiting; {
		select {
		case <-r.quit:
			return
		case <-again.C:
			if !r.signalIn("SigBlk") { // else it has kept the first one
				r.tell()
			}
			pause *= 2
			again.Reset(pause)
		case <-look:
			begun := time.Now()
			alone++
			// busybox sleeps for a second at a time before it looks at its signals.
			if pids, err := r.c.tree.Pids(); err != nil || len(pids) > 1 || r.signalIn("ShdPnd") {
				alone = 0
			}
			waiting = alone < aloneLooks
			look = time.After(max(alonePoll, min(readRest*time.Since(begun), readRestMax))) // root inside can have very many of both
		case <-late.C:
			r.c.log.WithField("timeout", r.plan.ShutdownTimeout).Warn("the init has not shut down in time, it is killed")
			waiting = false
		}
	}
	if err := r.c.kill(context.Background(), unix.SIGKILL, true); err != nil {
		r.c.log.WithError(err).Error("processes of an ended container stay")
	}
}

// isDown says whether the application is over, or is to end with everything else.
func (r *rich) isDown() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.progress.Because != ""
}

// signalIn says whether the signal to shut down is in one of the init's sets: blocked, or pending.
func (r *rich) signalIn(set string) bool {
	in, err := signalIn(r.c.init.pid, unix.Signal(r.plan.Shutdown), set)
	return err == nil && in
}

// tell sends the init the signal to shut down.
func (r *rich) tell() {
	r.c.awaitProgram(unix.Signal(r.plan.Shutdown))
	if err := r.c.init.fd.Signal(unix.Signal(r.plan.Shutdown)); err != nil && !r.c.init.fd.Ended() {
		r.c.log.WithError(err).Error("cannot tell the init to shut down")
	}
}

// close ends the watching: pid 1 has ended.
func (r *rich) close() {
	close(r.quit)
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.over.Wait()
	r.c.s.files.Forget(r.record)
	if r.control != nil {
		_ = r.control.Close()
	}
}
