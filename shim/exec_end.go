package shim

import (
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/pollfile"
)

// watchCaller opens the caller's stdout once more: its reading end is there as long as the caller is. nil: none was given.
func (e *execution) watchCaller() (*pollfile.File, error) {
	if e.stdout == "" {
		return nil, nil
	}
	return openFIFO(e.stdout, unix.O_WRONLY)
}

// endWithCaller kills the process with all that it started when its caller has gone, and forgets it: nobody else would, and
// nobody would ask for its end.
func (e *execution) endWithCaller(p *process, alive *pollfile.File) {
	hungUp(alive) // or it has been forgotten
	if !p.ended() {
		if err := e.kill(unix.SIGKILL, true); err != nil {
			e.c.log.WithField("exec", e.id).WithError(err).Warn("cannot kill an exec whose caller has gone")
		}
		<-p.done
	}
	e.c.forgetExec(e)
}

// leaveCaller ends the watch over the caller.
func (e *execution) leaveCaller() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.caller != nil {
		_ = e.caller.Close()
		e.caller = nil
	}
}

// hurry bounds what the end of the process waits for its caller: the container has ended.
func (e *execution) hurry() {
	if p := e.started(); p != nil {
		if tty, ok := p.io.(*console); ok && tty.to != nil {
			_ = tty.to.SetWriteDeadline(time.Now().Add(hurryLimit))
		}
	}
}

// kill sends a signal to the process or, with all, to everything that it started and that can still be told from the
// rest of the container.
func (e *execution) kill(signal unix.Signal, all bool) error {
	p, err := e.running()
	if err != nil {
		return err
	}
	if signal < 0 || signal > 64 {
		return fmt.Errorf("signal %d does not exist: %w", signal, errdefs.ErrInvalidArgument)
	}
	if all {
		return e.killSubtree(p, signal)
	}
	if p.ended() {
		return fmt.Errorf("exec %s in container %s has ended: %w", e.id, e.c.id, errdefs.ErrFailedPrecondition)
	}
	if err := p.fd.Signal(signal); err != nil && !p.fd.Ended() {
		return fmt.Errorf("kill exec %s in container %s: %w", e.id, e.c.id, err)
	}
	return nil
}
