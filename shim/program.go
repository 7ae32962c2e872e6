package shim

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// startProgram starts a program of the node, or the shim's own in another role. It has what any child of the shim has, umask,
// signals and limits of a service, but not what spares the shim from the OOM killer: oom_score_adj is inherited, also by what
// the program leaves running. It is 0 before the program's first instruction, for which the kernel stops a traced process; a
// node that forbids tracing (kernel.yama.ptrace_scope=3) has it a moment later.
func startProgram(cmd *exec.Cmd) error {
	own, err := oomScoreAdj()
	if err != nil {
		return err
	}
	if own == 0 {
		return cmd.Start()
	}
	untraced := *cmd
	attr := syscall.SysProcAttr{}
	if cmd.SysProcAttr != nil {
		attr = *cmd.SysProcAttr
	}
	attr.Ptrace = true
	cmd.SysProcAttr = &attr
	runtime.LockOSThread() // who traces is a thread
	defer runtime.UnlockOSThread()
	err = cmd.Start()
	if errors.Is(err, unix.EPERM) {
		*cmd = untraced
		if err = cmd.Start(); err != nil {
			return err
		}
		return resetOOMScore(cmd, own)
	}
	if err != nil {
		return err
	}
	pid := cmd.Process.Pid
	var info unix.Siginfo
	for err = unix.EINTR; err == unix.EINTR; { // it has been killed, or is stopped
		err = unix.Waitid(unix.P_PID, pid, &info, unix.WSTOPPED|unix.WEXITED|unix.WNOWAIT, nil)
	}
	err = resetOOMScore(cmd, own)
	_ = unix.PtraceDetach(pid)
	return err
}

// resetOOMScore gives a child 0. One that cannot get it is killed, unless it is less spared than others.
func resetOOMScore(cmd *exec.Cmd, own int) error {
	err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", cmd.Process.Pid), []byte("0"), 0)
	if err == nil || own > 0 {
		return nil
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	return fmt.Errorf("set its oom_score_adj: %w", err)
}

// oomScoreAdj is the shim's own.
func oomScoreAdj() (int, error) {
	b, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0, fmt.Errorf("read own oom_score_adj: %w", err)
	}
	return strconv.Atoi(string(bytes.TrimSpace(b)))
}
