package shim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/crash"
	"github.com/cri-pouch/cri-pouch/internal/shimstate"
)

const (
	// killInterval is the time between two looks at a launch that is being killed: it may have forked since the last one.
	killInterval = 10 * time.Millisecond
	// reapInterval is the time between two looks at what a failed launch has left: nothing tells of the end of a process that
	// nobody waits for.
	reapInterval = 50 * time.Millisecond
	// reapLooks is how often in a row nothing must be found: the kernel's list of children may miss one while another is
	// taken off it (proc(5), children).
	reapLooks = 3
)

// launch is the making of one process through libcontainer. It has a thread of its own as long as it lasts.
//
// runc's init makes a container's process through two others, and all three are children of the thread that forked the
// first (CLONE_PARENT). The thread's list of children therefore tells the processes of this launch from those of every
// other, whatever cgroup they are in and whatever root in the container does to them: the last of the three is in the
// container's pid namespace, and can be stopped there, before it has joined the container's cgroup.
type launch struct {
	s *Server

	mu    sync.Mutex
	tid   int      // of its thread; 0 before it begins and when it is over
	since uint64   // when it began, in clock ticks since boot
	made  *process // what it has made, once the shim waits for that

	// abandoned says that it must go no further. waitsFor is a path of somebody else's choice that it looks at, "" for none.
	// mu guards both.
	abandoned bool
	waitsFor  string

	// stranded says that its thread could not return to the host's mount namespace. The thread itself sets it.
	stranded bool
}

// errAbandoned ends a launch that went on when nobody waited for it any more.
var errAbandoned = fmt.Errorf("the launch was given up: %w", errdefs.ErrAborted)

// errIdle is in the error of a launch that was given up while it waited for a file system: it has no process, and makes none
// when the file system answers.
var errIdle = errors.New("has made no process")

// errContainerEnded ends launches into a container that has ended or is destroyed.
var errContainerEnded = fmt.Errorf("the container has ended meanwhile: %w", errdefs.ErrFailedPrecondition)

// launch runs fn on a thread of its own and gives its error. When limit passes, or ctx ends, everything that the launch has made
// is killed and late is called, which ends what else has to end for fn to return. If fn does not return within killLimit
// either, launch gives up and reports so. after tells when fn has returned at last. The caller lets go of what it holds for
// the launch when launch returns, whatever has become of fn.
func (s *Server) launch(ctx context.Context, limit time.Duration, what string, late func(), fn func(*launch) error) (after <-chan struct{}, err error) {
	l := &launch{s: s}
	done := make(chan struct{})
	var result error
	s.threads.run(func() bool {
		l.begin()
		defer l.end()
		result = crash.Try(s.log, what, func() error { return fn(l) })
		close(done)
		if result != nil {
			l.reap()
		}
		return !l.stranded
	})
	timer := time.NewTimer(limit)
	defer timer.Stop()
	var why error
	select {
	case <-done:
		return done, result
	case <-ctx.Done():
		why = fmt.Errorf("%s: %w", what, context.Cause(ctx))
	case <-timer.C:
		why = fmt.Errorf("%s took longer than %s: %w", what, limit, context.DeadlineExceeded)
	}
	if err := l.killUntil(done, late); err != nil {
		return done, fmt.Errorf("%w, %w", why, err)
	}
	if result == nil {
		return done, nil
	}
	return done, fmt.Errorf("%w, and was ended (%v)", why, result)
}

// isOver reports whether a launch that gave after has come back.
func isOver(after <-chan struct{}) bool {
	select {
	case <-after:
		return true
	default:
		return false
	}
}

func (l *launch) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tid, l.since = unix.Gettid(), bootTicks()
}

// end must be called before the thread can serve others.
func (l *launch) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tid = 0
}

// adopted notes what the launch has made: the shim waits for it, nobody else reaps it.
func (l *launch) adopted(p *process) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.made = p
}

// killUntil kills the launch until done is closed. It gives up with an error after killLimit, and at once where there is nothing
// to kill or to wait for: the launch waits for a file system and has no process.
func (l *launch) killUntil(done <-chan struct{}, late func()) error {
	until := time.NewTimer(killLimit)
	defer until.Stop()
	l.kill()
	if late != nil {
		late()
	}
	for {
		path, idle := l.kill()
		if idle {
			return fmt.Errorf("the file system of %s does not answer, and the launch %w", path, errIdle)
		}
		select {
		case <-done:
			return nil
		case <-until.C:
			if path != "" {
				return fmt.Errorf("and cannot be ended: the file system of %s does not answer", path)
			}
			return errors.New("and cannot be ended")
		case <-time.After(killInterval):
		}
	}
}

// kill keeps the launch from going on and sends SIGKILL to each process of it that lives. It returns the path that the launch
// waits for; idle says that there is one, and no process.
func (l *launch) kill() (path string, idle bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.abandoned = true
	all := l.processes()
	for _, o := range all {
		if !o.dead {
			o.kill()
		}
	}
	return l.waitsFor, l.waitsFor != "" && len(all) == 0
}

// reap ends and reaps what a failed launch has left. libcontainer reaps the first of the three processes and forgets the others
// when one of them is killed on the way: it counts on ending itself. Such a zombie is in the container's pid namespace, and
// the kernel does not let the namespace's init end before it is reaped (zap_pid_ns_processes): the container would never end.
func (l *launch) reap() {
	for empty := 0; empty < reapLooks; time.Sleep(reapInterval) {
		l.mu.Lock()
		left := l.processes()
		empty++
		for _, o := range left {
			if l.made != nil && l.made.pid == o.pid {
				continue // it has a waiter
			}
			empty = 0
			if o.dead {
				_, _ = unix.Wait4(o.pid, nil, unix.WNOHANG, nil)
			} else {
				o.kill()
			}
		}
		l.mu.Unlock()
	}
}

// orphan is a child of the shim that no waiter of the shim is known for.
type orphan struct {
	pid   int
	start uint64 // clock ticks since boot
	dead  bool
}

// kill ends the process, unless its number has gone to another one since it was listed.
func (o orphan) kill() {
	fd, err := unix.PidfdOpen(o.pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	st, err := shimstate.ReadStat(o.pid)
	if err == nil && st.StartTime == o.start && st.Parent == unix.Getpid() {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	}
}

// processes lists what the launch has forked and nobody has reaped. It must be called with mu held.
func (l *launch) processes() (found []orphan) {
	if l.tid == 0 {
		return nil
	}
	b, err := os.ReadFile("/proc/self/task/" + strconv.Itoa(l.tid) + "/children")
	if err != nil {
		l.s.log.WithError(err).Error("cannot look for what a launch has made (the kernel needs CONFIG_PROC_CHILDREN)")
		return nil
	}
	for field := range strings.FieldsSeq(string(b)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			continue
		}
		st, err := shimstate.ReadStat(pid)
		// What former launches of the thread have made is older, or, where the clock does not tell, is known.
		if err != nil || st.Parent != unix.Getpid() || st.StartTime < l.since || !l.isMade(pid) && l.s.knows(pid) {
			continue
		}
		found = append(found, orphan{pid, st.StartTime, st.State == 'Z'})
	}
	return found
}

func (l *launch) isMade(pid int) bool { return l.made != nil && l.made.pid == pid }

// bootTicks is now as proc(5) stat gives the start of processes: in ticks of 10 ms since boot.
func bootTicks() uint64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0 // as if it had begun before everything
	}
	return uint64(ts.Nano() / int64(10*time.Millisecond))
}

// knows reports whether a process is the init, an exec or a hook of a container: those are waited for.
func (s *Server) knows(pid int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.containers {
		if c.init != nil && c.init.pid == pid {
			return true
		}
		if c.init != nil && c.hooks != nil && c.hooks.knows(pid) {
			return true
		}
		for _, e := range c.allExecs() {
			if p := e.started(); p != nil && p.pid == pid {
				return true
			}
		}
	}
	return false
}

// checkChildren reports whether the kernel tells the children of a thread.
func checkChildren() error {
	_, err := os.ReadFile("/proc/thread-self/children")
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the kernel lists no children of threads (it needs CONFIG_PROC_CHILDREN): what root in a container holds up cannot be ended: %w", errdefs.ErrUnavailable)
	}
	return err
}
