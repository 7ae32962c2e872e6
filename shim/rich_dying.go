package shim

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// exiting is the kernel's flag of a process on its way out (PF_EXITING, field 9 of proc_pid_stat(5)).
const exiting = 0x4

// dying says whether a process, by its number in the container, has been killed and only takes its time: to let go of much
// memory on a busy node can take long.
func (r *rich) dying(pid int) bool {
	pids, err := r.c.tree.Pids()
	if err != nil {
		return false
	}
	for _, p := range pids {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p))
		if err != nil || field(string(status), "NSpid") != strconv.Itoa(pid) {
			continue
		}
		pending, _ := strconv.ParseUint(field(string(status), "SigPnd"), 16, 64)
		return pending>>(unix.SIGKILL-1)&1 == 1 || isExiting(p)
	}
	return true // it has gone meanwhile
}

// field gives the last word of a line of /proc/PID/status.
func field(status, name string) string {
	for line := range strings.Lines(status) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			if words := strings.Fields(value); len(words) > 0 {
				return words[len(words)-1]
			}
		}
	}
	return ""
}

func isExiting(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	words := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:])) // the name before may hold anything
	if len(words) < 7 {
		return false
	}
	flags, err := strconv.ParseUint(words[6], 10, 64)
	return err == nil && flags&exiting != 0
}
