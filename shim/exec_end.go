package shim

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/shimstate"
)

// watchCaller opens the caller's stdout once more: its reading end is there as long as the caller is. nil: none was given.
func (e *execution) watchCaller() (*os.File, error) {
	if e.stdout == "" {
		return nil, nil
	}
	return openFIFO(e.stdout, unix.O_WRONLY, false)
}

// endWithCaller kills the process with all that it started when its caller has gone: nobody else would, and nobody would
// ask for its end.
func (e *execution) endWithCaller(p *process, alive *os.File) {
	hungUp(alive)
	if p.ended() {
		return
	}
	if err := e.kill(unix.SIGKILL, true); err != nil {
		e.c.log.WithField("exec", e.id).WithError(err).Warn("cannot kill an exec whose caller has gone")
	}
	<-p.done
	e.c.forgetExec(e.id)
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

// killSubtree signals the process, its descendants, and whoever is left of its session: runc's init makes each exec'd
// process the leader of a session of its own, which orphans stay in.
func (e *execution) killSubtree(p *process, signal unix.Signal) error {
	hit := map[int]bool{}
	for range 100 { // while it forks
		fresh, err := e.subtree(p, hit)
		if err != nil || len(fresh) == 0 {
			return err
		}
		for _, pid := range fresh {
			hit[pid] = true
			if err := unix.Kill(pid, signal); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("kill exec %s in container %s: %w", e.id, e.c.id, err)
			}
		}
		if signal != unix.SIGKILL {
			return nil
		}
	}
	return nil
}

// subtree lists whom killSubtree has not hit yet. The leader's end does not matter: while somebody is in its session,
// its pid is not given away.
func (e *execution) subtree(p *process, hit map[int]bool) ([]int, error) {
	pids, err := e.c.tree.Pids()
	if err != nil {
		return nil, err
	}
	stats := make(map[int]shimstate.Stat, len(pids))
	for _, pid := range pids {
		if st, err := shimstate.ReadStat(pid); err == nil && st.State != 'Z' && st.StartTime >= p.startTime {
			stats[pid] = st
		}
	}
	member := map[int]bool{p.pid: true}
	for more := true; more; {
		more = false
		for pid, st := range stats {
			if !member[pid] && (st.Session == p.pid || member[st.Parent] || hit[st.Parent]) {
				member[pid], more = true, true
			}
		}
	}
	var fresh []int
	for pid := range member {
		if st, ok := stats[pid]; ok && !hit[pid] && (pid != p.pid || st.StartTime == p.startTime) {
			fresh = append(fresh, pid)
		}
	}
	return fresh, nil
}
