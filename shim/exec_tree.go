package shim

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/shimstate"
)

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

// subtree lists whom killSubtree has not hit yet.
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
	return parentsFirst(p.pid, p.startTime, stats, hit), nil
}

// parentsFirst gives the processes that belong to a leader and have not been hit, each after its parent: a shell whose
// command is killed before it goes on with the next one. The leader's end does not matter: while somebody is in its
// session, its pid is not given away.
func parentsFirst(leader int, startTime uint64, stats map[int]shimstate.Stat, hit map[int]bool) (order []int) {
	if st, ok := stats[leader]; ok && st.StartTime != startTime {
		return nil
	}
	in := func(pid int) bool { st, ok := stats[pid]; return ok && st.Session == leader }
	queue, children := []int{leader}, map[int][]int{}
	for pid, st := range stats {
		children[st.Parent] = append(children[st.Parent], pid)
		if hit[st.Parent] || in(pid) && !in(st.Parent) { // orphans
			queue = append(queue, pid)
		}
	}
	seen := map[int]bool{}
	for ; len(queue) > 0; queue = queue[1:] {
		pid := queue[0]
		if seen[pid] {
			continue
		}
		seen[pid] = true
		if _, alive := stats[pid]; alive && !hit[pid] {
			order = append(order, pid)
		}
		queue = append(queue, children[pid]...)
	}
	return order
}
