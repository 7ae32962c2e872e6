package shim

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// signalIn says whether a signal is in one of the sets of /proc/PID/status, as in "SigBlk" (proc(5)).
func signalIn(pid int, signal unix.Signal, sets ...string) (bool, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false, err
	}
	var mask uint64
	for _, name := range sets {
		m, _ := strconv.ParseUint(field(string(status), name), 16, 64)
		mask |= m
	}
	return mask>>(signal-1)&1 == 1, nil
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
