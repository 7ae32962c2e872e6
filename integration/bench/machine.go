package bench

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	goruntime "runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Machine is what the figures were measured on.
type Machine struct {
	Cores    int
	Kernel   string
	CgroupV2 bool
	Load     string // average of the minute before the run
}

func lookAtMachine() (Machine, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return Machine{}, err
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return Machine{}, err
	}
	minute, _, _ := strings.Cut(string(load), " ")
	var fs unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &fs); err != nil {
		return Machine{}, err
	}
	return Machine{
		Cores: goruntime.NumCPU(), Kernel: unix.ByteSliceToString(name.Release[:]), CgroupV2: fs.Type == unix.CGROUP2_SUPER_MAGIC, Load: minute,
	}, nil
}

// pss gives the proportional set size of processes together, in bytes, and how many there are (proc_pid_smaps(5)).
func pss(processes func() ([]int, error)) (bytes uint64, count int, err error) {
	pids, err := processes()
	if err != nil {
		return 0, 0, err
	}
	for _, pid := range pids {
		size, err := pssOf(pid)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // it ended since it was listed
		}
		if err != nil {
			return 0, 0, err
		}
		bytes, count = bytes+size, count+1
	}
	return bytes, count, nil
}

func pssOf(pid int) (uint64, error) {
	path := fmt.Sprintf("/proc/%d/smaps_rollup", pid)
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) == 3 && fields[0] == "Pss:" {
			n, err := strconv.ParseUint(fields[1], 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("%s has no Pss", path)
}
