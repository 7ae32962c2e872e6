package shim

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/shimstate"
)

// exiting is the kernel's flag of a process on its way out (PF_EXITING).
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
		return isDying(p)
	}
	return true // it has gone meanwhile
}

// isDying says whether a process has been killed, is ending or has gone.
func isDying(pid int) bool {
	killed, err := signalIn(pid, unix.SIGKILL, "SigPnd")
	if err != nil {
		return true
	}
	st, err := shimstate.ReadStat(pid)
	return killed || err != nil || st.Flags&exiting != 0
}
