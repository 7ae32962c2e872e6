package shim

import (
	"context"
	"errors"
	"os"
	"strings"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/cgrouptree"
	"github.com/cri-pouch/cri-pouch/internal/crash"
	"github.com/cri-pouch/cri-pouch/internal/hookrun"
)

const (
	// hookReapLimit is how long a hook's launcher has to reap what was killed under it before it is killed itself.
	hookReapLimit = 2 * time.Second
	// launchLimit is how long the launch of a hook may take at least, its own timeout not counted, where the stage has that much.
	launchLimit = 10 * time.Second
	// unrunnableCode is the exit code of a hook that could not be run.
	unrunnableCode = 126
)

// hookPlace is where one hook runs.
type hookPlace interface {
	// enter waits until a process may be made there; leave must be called when it is made, has failed or is given up.
	enter(ctx context.Context) (leave func(after <-chan struct{}), err error)
	// alive ends when nothing can be launched there any more.
	alive() context.Context
	// launch makes the process of the hook's launcher, begin lets it go on.
	launch(l *launch, lp *libcontainer.Process) (*process, error)
	begin() error
	// tree is the cgroup of all that the hook starts.
	tree() cgrouptree.Tree
	// oomKills counts what the OOM killer has ended there.
	oomKills() uint64
	// clean ends what is left there and removes the place.
	clean() error
}

// run runs one hook to its end. The end of ctx ends it with all that it has started.
func (h *hooks) run(ctx context.Context, stage hookrun.Stage, hook hookrun.Hook, at hookPlace) (r hookrun.Result) {
	r = hookrun.Result{Stage: stage, Name: hook.Name, Ignored: hook.Ignore, Outcome: hookrun.Skipped}
	if timeIsOver(ctx) {
		r.Message = overMessage(ctx)
		return r
	}
	leave, err := at.enter(ctx)
	if err != nil {
		r.Message = err.Error()
		return r
	}
	r.Outcome, r.ExitCode, r.StartedAt = hookrun.Failed, unrunnableCode, time.Now()
	defer func() {
		if r.Duration == 0 {
			r.Duration = time.Since(r.StartedAt)
		}
	}()
	output, child, err := newHookOutput(h.c.logFile, hook)
	if err != nil {
		leave(over())
		r.Message = err.Error()
		return r
	}
	output.follower.start()
	before := at.oomKills()
	p, after, err := h.launch(ctx, hook, at, child, leave)
	if err == nil {
		h.await(ctx, hook, at, p, &r)
	} else {
		r.Message = explain(err).Error()
		if errors.Is(err, context.DeadlineExceeded) {
			r.Outcome = hookrun.TimedOut
		}
	}
	if kills := at.oomKills(); kills > before {
		h.c.s.oom.elsewhere(at.tree().Parent(), kills-before)
		if r.Outcome == hookrun.Failed && r.Message == "" {
			r.Message = "the OOM killer ended a process of it"
		}
	}
	h.clean(hook, at, after)
	r.Output = output.finish()
	return r
}

// timeIsOver says that a stage's time was used up, not that the container is gone.
func timeIsOver(ctx context.Context) bool { return errors.Is(ctx.Err(), context.DeadlineExceeded) }

// overMessage says which time was used up.
func overMessage(ctx context.Context) string {
	text, _ := strings.CutSuffix(context.Cause(ctx).Error(), ": "+context.DeadlineExceeded.Error())
	return text
}

// launchTime is how long the launch of a hook may take: its own timeout, for a slow launch is a slow hook too, but not less than a
// healthy machine under load needs, and not more than all hooks have left.
func launchTime(ctx context.Context, hook hookrun.Hook) time.Duration {
	limit := max(hook.Timeout, launchLimit)
	if until, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(until))
	}
	return max(limit, 0)
}

// launch makes the hook's process. after tells when libcontainer is done with it, which may be later than an error.
func (h *hooks) launch(ctx context.Context, hook hookrun.Hook, at hookPlace, output *os.File, leave func(<-chan struct{})) (p *process, after <-chan struct{}, err error) {
	late := func() {
		ctx, cancel := context.WithTimeout(context.Background(), hookReapLimit)
		defer cancel()
		_ = at.tree().Kill(ctx)
	}
	log := h.c.log.WithField("hook", hook.Name)
	during, cancel := context.WithCancelCause(at.alive())
	defer cancel(nil)
	defer context.AfterFunc(ctx, crash.Guard(log, "end a launch", func() { cancel(context.Cause(ctx)) }))()
	var made *process
	after, err = h.c.s.launch(during, launchTime(ctx, hook), "launch of a hook", late, func(l *launch) error {
		defer output.Close()
		spec := *hook.Process
		spec.Args = append([]string{hookrun.Launcher}, spec.Args...)
		lp, err := newProcess(&spec)
		if err != nil {
			return err
		}
		lp.Stdout, lp.Stderr = output, output
		if made, err = at.launch(l, lp); err != nil {
			return err
		}
		l.adopted(made)
		h.current.Store(made)
		crash.Go(log, "wait for a hook", func() { made.finish(made.wait(log, nil).Exit) })
		return at.begin()
	})
	leave(after)
	if !isOver(after) {
		return nil, after, err
	}
	if err != nil && made != nil {
		h.kill(at, made)
	}
	return made, after, err
}

// await waits for the end of the hook, or makes it end when its time is over.
func (h *hooks) await(ctx context.Context, hook hookrun.Hook, at hookPlace, p *process, r *hookrun.Result) {
	timer := time.NewTimer(hook.Timeout)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		r.Outcome, r.Duration = hookrun.TimedOut, hook.Timeout // launch and kill are not the hook's time
	case <-ctx.Done():
		if timeIsOver(ctx) {
			r.Outcome, r.Message = hookrun.TimedOut, overMessage(ctx)
		} else {
			r.Message = "it was ended: the container is being removed, or was killed"
		}
	}
	if !p.ended() && !h.kill(at, p) {
		r.ExitCode = 128 + int(unix.SIGKILL)
		r.Message = "it was killed and does not end"
		return
	}
	r.ExitCode = int(p.exit.Code)
	if r.Outcome == hookrun.Failed && r.ExitCode == 0 && r.Message == "" {
		r.Outcome = hookrun.Succeeded
	}
}

// kill ends everything that the hook has started and then its launcher, which reaps them, and waits for it.
func (h *hooks) kill(at hookPlace, p *process) (ended bool) {
	ctx, cancel := context.WithTimeout(context.Background(), hookReapLimit)
	defer cancel()
	_ = p.fd.Signal(unix.SIGCONT) // the hook may have stopped it
	_ = at.tree().KillBut(ctx, p.pid)
	_, _ = p.await(ctx)
	err := p.kill(context.Background())
	return err == nil
}

// clean removes the place, at once or as soon as libcontainer is done with it.
func (h *hooks) clean(hook hookrun.Hook, at hookPlace, after <-chan struct{}) {
	work := func() {
		if err := at.clean(); err != nil {
			h.c.log.WithField("hook", hook.Name).WithError(err).Error("a hook left something behind")
		}
		h.current.Store(nil)
	}
	if after == nil {
		work()
		return
	}
	select {
	case <-after:
		work()
	default:
		crash.Go(h.c.log, "clean up after a hook", func() {
			<-after
			work()
		})
	}
}
