package shim

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/cri-pouch/cri-pouch/internal/cgrouptree"
	"github.com/cri-pouch/cri-pouch/internal/crash"
	"github.com/cri-pouch/cri-pouch/internal/crilog"
	"github.com/cri-pouch/cri-pouch/internal/failpoint"
	shimapi "github.com/cri-pouch/cri-pouch/shim/api/v1"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

// container is one container from Create to Delete.
type container struct {
	s          *Server
	id, bundle string
	log        *logrus.Entry
	options    *shimapi.CreateOptions
	terminal   bool
	privatePID bool // its init's end is the end of all its processes
	userns     bool
	tree       cgrouptree.Tree
	pod        string // whose slots its launches take
	lc         *libcontainer.Container
	lcLocked   bool     // under op: lc is locked by a launch that does not come back
	init       *process // set under s.mu, once; nil: still being created
	idle       bool     // under s.mu: its creation was given up and waits for a file system; nothing of it is there but its ID
	logFile    *crilog.File
	audience   audience
	rich       *rich        // nil: its pid 1 is the application
	outer      *outerCgroup // nil: its processes live in the cgroup with the limits
	hooks      *hooks       // nil: it has none
	ofHook     bool         // it is no client's, a hook runs in it
	node       *nodeHooks   // nil: no hook of the node concerns it
	slot       *slot        // of its creation
	startBy    time.Time    // when the hooks of its start have to be done

	killed   atomic.Bool  // by SIGKILL, through us
	killedAt atomic.Int64 // when that was first, in nanoseconds since 1970

	// life ends when the container is destroyed by force; no hook outlives it.
	life context.Context
	doom context.CancelFunc
	// alive ends with life, and when the init has ended: nothing is launched into the container any more.
	alive  context.Context
	bereft context.CancelCauseFunc
	stuck  atomic.Int32 // launches that were given up and have not come back

	// op is held by whatever changes the container through libcontainer: start, exec, pause, resume, update, delete.
	op      chan struct{}
	removed bool // under op

	mu        sync.Mutex
	status    task.Status
	startedAt time.Time
	begun     chan struct{} // not nil: Start was called; closed: it is known whether the program ran
	letGo     bool          // its program is about to run, or has run: the start cannot be given up any more
	starting  bool          // its prestart hooks run
	ending    bool          // its poststop hooks run
	silent    bool          // its end is of our own making and told to nobody
	execs     map[string]*execution
}

// newContainer gives one that is not in the list of any server yet.
func newContainer(s *Server, id, bundle string) *container {
	c := &container{
		s: s, id: id, bundle: bundle, log: s.log.WithField("container", id),
		op: make(chan struct{}, 1), status: task.Created, execs: map[string]*execution{},
	}
	c.audience.backlog = s.backlog
	c.life, c.doom = context.WithCancel(context.Background())
	c.alive, c.bereft = context.WithCancelCause(c.life)
	return c
}

// take waits for the container's turn.
func (c *container) take(ctx context.Context) (release func(), err error) {
	select {
	case c.op <- struct{}{}:
		return func() { <-c.op }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("container %s is busy: %w", c.id, ctx.Err())
	}
}

// whileAlive returns a context that ends with ctx, and when nothing can be launched into the container any more.
func (c *container) whileAlive(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(c.alive, crash.Guard(nil, "end a wait", func() { cancel(context.Cause(c.alive)) }))
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

func (c *container) state() task.Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

// demand gives an error unless the container is in one of the states.
func (c *container) demand(what string, states ...task.Status) error {
	have := c.state()
	for _, s := range states {
		if s == have {
			return nil
		}
	}
	return fmt.Errorf("cannot %s container %s: it is %s: %w", what, c.id, have, errdefs.ErrFailedPrecondition)
}

// blame gives the error of something done to the container its class where the reason is that the container is ending, which
// demand cannot know in advance.
func (c *container) blame(err error) error {
	if err == nil || !errors.Is(err, libcontainer.ErrNotRunning) && !isDying(c.init.pid) {
		return err
	}
	return fmt.Errorf("its first process has ended meanwhile: %w (%w)", errdefs.ErrFailedPrecondition, err)
}

// demandNoHooks gives an error while hooks run: the container's own processes are not there yet, or not any more.
func (c *container) demandNoHooks(what string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.starting:
		return fmt.Errorf("cannot %s container %s: its prestart hooks run: %w", what, c.id, errdefs.ErrFailedPrecondition)
	case c.ending:
		return fmt.Errorf("cannot %s container %s: it has ended, its poststop hooks run: %w", what, c.id, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// ran says whether the container's program ran. It waits for a start under way, which the end of the init ends.
func (c *container) ran() bool {
	c.mu.Lock()
	begun := c.begun
	c.mu.Unlock()
	if begun == nil {
		return false
	}
	<-begun
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.startedAt.IsZero()
}

// watch waits for the end of the init and makes it known when the log is complete. A panic in a step costs that step: a
// container that has ended is not left running for ever.
func (c *container) watch() {
	exit := c.init.wait(c.log, func() { c.bereft(errContainerEnded) })
	ran := c.ran()
	step := func(what string, fn func()) { crash.Run(c.log, what+" of an ended container", fn) }
	if c.rich != nil {
		step("end the watch", c.rich.close)
	}
	step("count the OOM kills", func() {
		exit.OOMKilled = c.s.oom.struck(c, exit.signal == unix.SIGKILL && !c.killed.Load())
	})
	if c.rich != nil {
		step("read the record", func() { exit = c.rich.exit(exit) })
	}
	step("forget the OOM kills", func() { c.s.oom.forget(c) })
	step("end the processes", c.killRest)
	step("drain the output", func() {
		failpoint.Hit("shim.container-ended")
		for _, e := range c.allExecs() {
			e.hurry()
		}
		c.init.io.drain()
	})
	step("let the attached clients go", c.audience.end)
	if ran {
		step("run the poststop hooks", func() { c.poststop(exit) })
	}
	if err := c.logFile.Close(); err != nil {
		c.log.WithError(err).Warn("log")
	}
	c.mu.Lock()
	c.status, c.ending = task.Stopped, false
	silent := c.silent
	c.mu.Unlock()
	c.init.finish(exit.Exit)
	c.doom() // nothing of it is left to end
	if !silent {
		c.s.events.publish(&shimapi.Event{Type: shimapi.Event_EXIT, Id: c.id, Exit: toAPI(exit.Exit)})
	}
	c.log.WithField("code", exit.Code).Debug("ended")
}

// killRest ends what the init of a container in a shared pid namespace leaves behind: nobody else would.
func (c *container) killRest() {
	if c.privatePID {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), killLimit)
	defer cancel()
	if err := c.tree.Kill(ctx); err != nil {
		c.log.WithError(err).Error("processes of an ended container stay")
	}
}

func toAPI(e task.Exit) *shimapi.Exit {
	return &shimapi.Exit{Code: e.Code, ExitedAt: timestamppb.New(e.ExitedAt), OomKilled: e.OOMKilled}
}

// kill sends a signal to the init or, with all, to every process of the container.
func (c *container) kill(ctx context.Context, signal unix.Signal, all bool) error {
	if c.init.ended() {
		return fmt.Errorf("cannot kill container %s: it is stopped: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	if signal < 0 || signal > 64 {
		return fmt.Errorf("signal %d does not exist: %w", signal, errdefs.ErrInvalidArgument)
	}
	if c.isEnding() { // there is nobody left
		return nil
	}
	if c.rich != nil && signal != unix.SIGKILL {
		return c.rich.stop(signal, all)
	}
	if signal != unix.SIGKILL {
		c.awaitProgram(signal)
	}
	if all && signal != unix.SIGKILL {
		return c.tree.Signal(signal)
	}
	if signal == unix.SIGKILL {
		c.noteKill()
	}
	err := c.init.fd.Signal(signal)
	if signal == unix.SIGKILL {
		// What is frozen on cgroup v1 dies only when it is thawed.
		c.tree.Thaw()
		if all || !c.privatePID {
			ctx, cancel := context.WithTimeout(ctx, killLimit)
			defer cancel()
			return c.tree.Kill(ctx)
		}
	}
	if err != nil && !c.init.fd.Ended() {
		return fmt.Errorf("kill container %s: %w", c.id, err)
	}
	return nil
}

// noteKill notes that the container is about to be killed through us.
func (c *container) noteKill() {
	c.killedAt.CompareAndSwap(0, time.Now().UnixNano())
	c.killed.Store(true)
}

func (c *container) isEnding() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ending
}

func (c *container) allExecs() []*execution {
	c.mu.Lock()
	defer c.mu.Unlock()
	execs := make([]*execution, 0, len(c.execs))
	for _, e := range c.execs {
		execs = append(execs, e)
	}
	return execs
}

// hooksDue says that the program has ended and its poststop hooks are still to begin. c.mu is held.
func (c *container) hooksDue() bool {
	if c.hooks == nil || len(c.hooks.plan.Poststop) == 0 || c.startedAt.IsZero() || c.status == task.Stopped {
		return false
	}
	return c.init.fd.Ended() || c.rich != nil && c.rich.isDown()
}

// info is what List and Inspect tell.
func (c *container) info() *shimapi.Process {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := &shimapi.Process{Id: c.id, Pid: uint32(c.init.pid), Status: string(c.status), Starting: c.starting, Ending: c.ending || c.hooksDue()}
	if c.ending {
		p.Pid = 0
	}
	if !c.startedAt.IsZero() {
		p.StartedAt = timestamppb.New(c.startedAt)
	}
	if c.status == task.Stopped {
		<-c.init.done // it is set right after the status
		p.Exit = toAPI(c.init.exit)
	}
	return p
}
