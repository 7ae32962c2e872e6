// Package procs describes the processes of a container to people: what proc(5) says of each, with the pids that the container
// sees. Command lines are the container's own word, of any bytes.
package procs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// CommandMax bounds a command line, in bytes.
const CommandMax = 512

// Process is one process.
type Process struct {
	PID, Parent int // in the container; a parent that is not in it is 0
	HostPID     int
	State       byte // letter of proc(5), stat
	// Command is the command line, its words joined by spaces; [name] where there is none: a zombie, for instance. Its bytes
	// need not be text.
	Command string
}

// Read describes at most limit processes of a container, in the order of their pids there, and says how many more there are.
// list gives the host pids, and initPID is pid 1's. Processes that come or go meanwhile may be left out; none that is not in
// the container is told of.
//
// A process can make the reading of its command line wait (userfaultfd(2)), until it is killed: whoever calls must not need the
// answer.
func Read(list func() ([]uint32, error), initPID, limit int) (found []Process, omitted int, err error) {
	pids, err := list()
	if err != nil {
		return nil, 0, err
	}
	slices.Sort(pids)
	if i := slices.Index(pids, uint32(initPID)); i > 0 { // it is never one of those left out
		pids = slices.Insert(slices.Delete(pids, i, i+1), 0, uint32(initPID))
	}
	if omitted = len(pids) - limit; omitted > 0 {
		pids = pids[:limit]
	}
	open := map[uint32]*os.File{}
	defer func() {
		for _, dir := range open {
			_ = dir.Close()
		}
	}()
	for _, pid := range pids {
		if dir, err := os.Open(fmt.Sprintf("/proc/%d", pid)); err == nil {
			open[pid] = dir
		}
	}
	// A pid may have gone to another process since it was listed. What is listed again while its folder, which stands for one
	// process, is open is that process.
	still, err := list()
	if err != nil {
		return nil, 0, err
	}
	depth := nesting(initPID)
	inside := map[int]int{}
	for _, pid := range pids {
		if dir := open[pid]; dir != nil && slices.Contains(still, pid) {
			if p, ok := read(dir, depth); ok {
				p.HostPID = int(pid)
				inside[p.HostPID] = p.PID
				found = append(found, p)
			}
		}
	}
	for i, p := range found {
		found[i].Parent = inside[p.Parent]
	}
	slices.SortFunc(found, func(a, b Process) int { return a.PID - b.PID })
	return found, max(omitted, 0), nil
}

// nesting says at which place of NSpid a container's processes have their pids; -1 when pid 1 has gone.
func nesting(initPID int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", initPID))
	if err != nil {
		return -1
	}
	return len(strings.Fields(field(b, "NSpid"))) - 1
}

// read describes one process by its open folder; its parent is a host pid.
func read(dir *os.File, depth int) (Process, bool) {
	status, err := readAt(dir, "status", 16<<10)
	if err != nil {
		return Process{}, false
	}
	pids := strings.Fields(field(status, "NSpid"))
	if depth < 0 || depth >= len(pids) {
		return Process{}, false // not in the container's namespace: an exec on its way in
	}
	p := Process{State: '?'}
	p.PID, _ = strconv.Atoi(pids[depth])
	p.Parent, _ = strconv.Atoi(field(status, "PPid"))
	if state := field(status, "State"); state != "" {
		p.State = state[0]
	}
	p.Command = "[" + field(status, "Name") + "]"
	line, err := readAt(dir, "cmdline", CommandMax)
	if err == nil {
		if words := strings.TrimRight(string(bytes.ReplaceAll(line, []byte{0}, []byte{' '})), " "); words != "" {
			p.Command = words
		}
	}
	return p, !errors.Is(err, unix.ESRCH)
}

func readAt(dir *os.File, name string, limit int64) ([]byte, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

// field gives the value of a line of /proc/PID/status.
func field(status []byte, name string) string {
	for line := range bytes.Lines(status) {
		if value, ok := bytes.CutPrefix(line, []byte(name+":")); ok {
			return strings.TrimSpace(string(value))
		}
	}
	return ""
}
