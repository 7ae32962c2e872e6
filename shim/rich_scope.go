package shim

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// StandInRole is the argument that makes the shim's program a stand-in.
const StandInRole = "stand-in"

// standIn is a process that holds a scope of systemd while the container's cgroup is made below it: systemd makes no scope
// without a process, and takes an empty one away.
type standIn struct {
	cmd    *exec.Cmd
	stdin  io.Closer
	folder string // its own cgroup
}

// StandIn waits until the shim ends it or ends itself.
func StandIn() {
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

func startStandIn() (*standIn, error) {
	cmd := exec.Command("/proc/self/exe", StandInRole)
	cmd.Env = []string{}
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = startProgram(cmd)
	}
	if err != nil {
		return nil, fmt.Errorf("start a process for the container's scope: %w", err)
	}
	return &standIn{cmd: cmd, stdin: stdin}, nil
}

// pid is -1 without one.
func (s *standIn) pid() int {
	if s == nil {
		return -1
	}
	return s.cmd.Process.Pid
}

// stepAside moves it into a cgroup of its own in the scope: one that has a process in it hands no controllers down.
func (s *standIn) stepAside(scope string) error {
	if s == nil {
		return nil
	}
	s.folder = filepath.Join(scope, StandInRole)
	err := os.Mkdir(s.folder, 0o755)
	if err == nil {
		err = os.WriteFile(filepath.Join(s.folder, "cgroup.procs"), fmt.Append(nil, s.pid()), 0)
	}
	if err != nil {
		return fmt.Errorf("make room in the scope: %w", err)
	}
	return nil
}

func (s *standIn) end() {
	if s == nil {
		return
	}
	_ = s.stdin.Close()
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	if s.folder != "" {
		_ = unix.Rmdir(s.folder) // else it goes with the scope
	}
}
