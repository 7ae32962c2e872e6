// Package pidfd holds a process by a descriptor: it waits for its end on Go's network poller, so that no thread stands
// for a wait, and signals it without the risk of hitting a successor of its pid (pidfd_open(2)).
package pidfd

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/exhaustion"
	"github.com/cri-pouch/cri-pouch/internal/pollfile"
)

// Process is an open pidfd. It is safe for concurrent use.
type Process struct {
	pid  int
	file *pollfile.File
}

// Open takes hold of a process that the caller knows to be alive, or its own unreaped child.
func Open(pid int) (*Process, error) {
	// Non-blocking, so that the descriptor is handed to the network poller.
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("open pidfd of process %d: %w", pid, err)
	}
	return &Process{pid: pid, file: pollfile.New(fd, fmt.Sprintf("pidfd %d", pid))}, nil
}

// Wait returns when the process has ended (it may still be a zombie), or with an error after Close.
func (p *Process) Wait() error {
	raw, err := p.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("wait for process %d: %w", p.pid, err)
	}
	for pause := (exhaustion.Pause{}); ; time.Sleep(pause.Next()) {
		var unknown error
		err := raw.Read(func(fd uintptr) (ended bool) {
			ended, unknown = readable(int(fd))
			return ended || unknown != nil
		})
		if err != nil {
			return fmt.Errorf("wait for process %d: %w", p.pid, err)
		}
		if unknown == nil {
			return nil
		}
	}
}

// Ended reports whether the process is known to have ended, or the pidfd was closed.
func (p *Process) Ended() bool {
	ended := true
	raw, err := p.file.SyscallConn()
	if err != nil {
		return true
	}
	_ = raw.Control(func(fd uintptr) { ended, _ = readable(int(fd)) })
	return ended
}

// readable reports whether the process has ended: pidfds know no other readiness. An error says that the kernel had no
// memory to tell.
func readable(fd int) (bool, error) {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 0)
		if err == unix.EINTR {
			continue
		}
		return n > 0, err
	}
}

// Signal sends a signal; unix.ESRCH once the process is gone or a zombie that was reaped.
func (p *Process) Signal(s unix.Signal) error {
	var sigErr error
	raw, err := p.file.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { sigErr = unix.PidfdSendSignal(int(fd), s, nil, 0) })
	}
	if err == nil {
		err = sigErr
	}
	if err != nil {
		return fmt.Errorf("signal %d to process %d: %w", s, p.pid, err)
	}
	return nil
}

// Close lets go of the process; a Wait in progress returns.
func (p *Process) Close() error { return p.file.Close() }
