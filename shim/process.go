package shim

import (
	"context"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/crash"
	"github.com/cri-pouch/cri-pouch/internal/failpoint"
	"github.com/cri-pouch/cri-pouch/internal/pidfd"
	"github.com/cri-pouch/cri-pouch/internal/shimstate"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

// process is one child of the shim: a container's init or an exec'd process.
type process struct {
	pid       int
	startTime uint64 // clock ticks since boot
	fd        *pidfd.Process
	lp        *libcontainer.Process
	io        streams

	kept   sync.RWMutex  // held for reading: it is not reaped
	reaped bool          // with kept
	gone   chan struct{} // closed when it is reaped and end is set
	end    ending
	done   chan struct{} // closed when exit is set: all is known and done that its end entails
	exit   task.Exit
}

// ending is the end of a process with what a hook is told of it.
type ending struct {
	task.Exit
	signal  unix.Signal // 0: it exited
	endedAt time.Time   // of a rich container's application, earlier than its init's
}

// adopt takes hold of a child that libcontainer has just made. The child cannot have been reaped: only wait does
// that, so its pid is its own.
func adopt(lp *libcontainer.Process, io streams) (*process, error) {
	pid, err := lp.Pid()
	if err != nil {
		return nil, fmt.Errorf("find the new process: %w", err)
	}
	fd, err := pidfd.Open(pid)
	if err != nil {
		return nil, err
	}
	p := &process{pid: pid, fd: fd, lp: lp, io: io, gone: make(chan struct{}), done: make(chan struct{})}
	if st, err := shimstate.ReadStat(pid); err == nil {
		p.startTime = st.StartTime
	}
	return p, nil
}

// wait blocks without a thread until the process has ended, calls ended, reaps the process and gives its code. ended ends
// whoever keeps it.
func (p *process) wait(log *logrus.Entry, ended func()) ending {
	defer close(p.gone)
	if err := crash.Try(log, "wait for a process", p.fd.Wait); err != nil {
		log.WithError(err).Error("waiting by thread instead")
	}
	if ended != nil {
		ended()
	}
	var state *os.ProcessState
	err := crash.Try(log, "reap a process", func() (err error) {
		state, err = p.reap()
		return err
	})
	now := time.Now()
	p.end = ending{Exit: task.Exit{ExitedAt: now, Code: 255}, endedAt: now}
	if state == nil {
		log.WithError(err).Error("the exit code is unknown")
		return p.end
	}
	if ws, ok := state.Sys().(syscall.WaitStatus); ok {
		p.end.Code = code(ws)
		if ws.Signaled() {
			p.end.signal = ws.Signal()
		}
	}
	return p.end
}

// reap returns at once where the process has ended, with an error for any code but 0.
func (p *process) reap() (*os.ProcessState, error) {
	p.kept.Lock()
	defer p.kept.Unlock()
	p.reaped = true
	return p.lp.Wait()
}

// follow sees an exec'd process through to its end, which is known whatever happens on the way.
func (p *process) follow(log *logrus.Entry) {
	exit := p.wait(log, nil)
	crash.Run(log, "drain the output of an exec", func() {
		failpoint.Hit("shim.exec-ended")
		p.io.drain()
	})
	p.finish(exit.Exit)
}

// keep gives the process's pid to the caller until release: it may end, but is not reaped, so that the pid does not become
// another process's. ErrFailedPrecondition: it has been reaped.
func (p *process) keep() (release func(), err error) {
	p.kept.RLock()
	if p.reaped {
		p.kept.RUnlock()
		return nil, fmt.Errorf("its first process has ended: %w", errdefs.ErrFailedPrecondition)
	}
	return p.kept.RUnlock, nil
}

// code is the shell's: 128+n for signal n.
func code(ws syscall.WaitStatus) uint32 {
	if ws.Signaled() {
		return 128 + uint32(ws.Signal())
	}
	return uint32(ws.ExitStatus())
}

// finish makes the exit known.
func (p *process) finish(exit task.Exit) {
	p.exit = exit
	_ = p.fd.Close()
	close(p.done)
}

// isGone says whether the process has been reaped.
func (p *process) isGone() bool {
	select {
	case <-p.gone:
		return true
	default:
		return false
	}
}

// ended says whether the exit is known.
func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// await blocks until the exit is known or ctx ends.
func (p *process) await(ctx context.Context) (task.Exit, error) {
	select {
	case <-p.done:
		return p.exit, nil
	case <-ctx.Done():
		return task.Exit{}, fmt.Errorf("wait for process %d: %w", p.pid, ctx.Err())
	}
}

// kill ends the process and waits for its exit.
func (p *process) kill(ctx context.Context) error {
	_ = p.fd.Signal(unix.SIGKILL)
	ctx, cancel := context.WithTimeout(ctx, killLimit)
	defer cancel()
	_, err := p.await(ctx)
	return err
}

// streams are the shim's ends of a process's stdio.
type streams interface {
	// start begins to move what the process writes.
	start()
	// drain returns when all is moved that the process wrote, or drainLimit has passed, and closes everything.
	drain()
	// closeStdin gives the process an end of file.
	closeStdin() error
	// input is where attached clients type; nil for exec'd processes.
	input() *inlet
	// resize sets the size of the terminal; an error where there is none.
	resize(width, height uint16) error
}

// childFiles are the ends that the process gets; they are closed in the shim once it has them.
type childFiles struct {
	mu    sync.Mutex
	files []interface{ Close() error }
}

func (c *childFiles) add(f interface{ Close() error }) { c.files = append(c.files, f) }

func (c *childFiles) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.files {
		_ = f.Close()
	}
	c.files = nil
}
