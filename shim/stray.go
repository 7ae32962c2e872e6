package shim

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/shimstate"
)

const (
	// strayLimit bounds the search for strays after one launch: no launch of another container takes longer.
	strayLimit = createLimit + 2*killLimit
	// strayPause is the time between two looks: nothing tells of the end of a process that nobody waits for.
	strayPause = 50 * time.Millisecond
	// strayLooks is how often in a row nothing must be found.
	strayLooks = 3
)

// launches knows the launches under way, so that what one of them left behind can be told from what others still wait
// for.
//
// runc's init makes a container's process through two others, and all three are children of the shim (CLONE_PARENT).
// When one of them is killed on the way, as by the end of the container that an exec joins, libcontainer reaps the first and
// forgets the rest: it counts on ending itself. Such a zombie is in the container's pid namespace, and the kernel does
// not let the namespace's init end before it is reaped (zap_pid_ns_processes): the container would never end.
type launches struct {
	mu    sync.Mutex
	begun map[*uint64]struct{} // when, in clock ticks since boot
}

// begin notes a launch. ended is to be called when its process is known to the shim, or has failed.
func (l *launches) begin() (since uint64, ended func()) {
	since = bootTicks()
	key := &since
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.begun == nil {
		l.begun = map[*uint64]struct{}{}
	}
	l.begun[key] = struct{}{}
	return since, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.begun, key)
	}
}

// own says whether a process that was made at this time can belong to a launch under way.
func (l *launches) own(startTime uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for since := range l.begun {
		if *since <= startTime {
			return true
		}
	}
	return false
}

// bootTicks is now as proc(5) stat gives the start of processes: in ticks of 10 ms since boot.
func bootTicks() uint64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0 // as if it had begun before everything
	}
	return uint64(ts.Nano() / int64(10*time.Millisecond))
}

// launched runs a launch, and sees to what it leaves where it fails.
func (s *Server) launched(launch func() error) (err error) {
	since, ended := s.launches.begin()
	defer func() {
		ended()
		if err != nil {
			go s.reapStrays(since, bootTicks())
		}
	}()
	return launch()
}

// reapStrays reaps what a launch that failed between these times has left. It returns when nothing of it can be there any
// more.
func (s *Server) reapStrays(since, until uint64) {
	empty := 0
	for deadline := time.Now().Add(strayLimit); empty < strayLooks && time.Now().Before(deadline); time.Sleep(strayPause) {
		left, err := s.strays(since, until)
		if err != nil {
			s.log.WithError(err).Error("cannot look for what a failed launch left")
			return
		}
		if len(left) == 0 {
			empty++ // the kernel's list may miss one while another is taken off
			continue
		}
		for _, one := range left {
			if one.dead && !s.launches.own(one.start) && !s.knows(one.pid) {
				_, _ = unix.Wait4(one.pid, nil, unix.WNOHANG, nil)
			}
		}
	}
}

type stray struct {
	pid   int
	start uint64
	dead  bool
}

// strays lists the shim's children made between these times that are runc's init still, and none of them known.
func (s *Server) strays(since, until uint64) ([]stray, error) {
	lists, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		return nil, fmt.Errorf("list own children: %w", err)
	}
	var found []stray
	for _, list := range lists {
		b, err := os.ReadFile(list)
		if err != nil {
			continue // the thread has ended
		}
		for field := range strings.FieldsSeq(string(b)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				continue
			}
			st, err := shimstate.ReadStat(pid)
			if err == nil && st.StartTime >= since && st.StartTime <= until && isRuncInit(st.Comm) && !s.knows(pid) {
				found = append(found, stray{pid, st.StartTime, st.State == 'Z'})
			}
		}
	}
	return found, nil
}

// knows says whether a process is the init, an exec or a hook of a container: those are waited for.
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
