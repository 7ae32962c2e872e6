package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/crash"
	"github.com/cri-pouch/cri-pouch/internal/exhaustion"
	"github.com/cri-pouch/cri-pouch/internal/hookrun"
	"github.com/cri-pouch/cri-pouch/internal/pollfile"
	"github.com/cri-pouch/cri-pouch/internal/shimstate"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

// start runs a created container's prestart hooks and lets it run its program. When it fails, the container is taken away, or,
// if the program has run, has ended. It goes on when the caller gives up.
func (c *container) start(ctx context.Context) error {
	settle, err := c.begin(ctx)
	if err != nil {
		return err
	}
	err = crash.Try(c.log, "start a container", func() error {
		err := c.logFile.Reopen()
		if err == nil {
			err = c.startContainerHooks()
		}
		if err == nil {
			err = c.prestart()
		}
		if err == nil {
			err = c.run()
		}
		return err
	})
	settle(err)
	if err == nil {
		return nil
	}
	if undoErr := c.endStart(ctx); undoErr != nil {
		c.log.WithError(undoErr).Error("a failed start left something behind")
	}
	return fmt.Errorf("start container %s: %w", c.id, err)
}

// begin books the one start of the container; settle says how it went.
func (c *container) begin(ctx context.Context) (settle func(error), err error) {
	release, err := c.take(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	if err := c.demand("start", task.Created); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.begun != nil {
		return nil, fmt.Errorf("container %s is being started: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	c.begun = make(chan struct{})
	return func(err error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if err != nil && c.startedAt.IsZero() {
			c.silent, c.letGo = true, false // the error tells of its end
		}
		close(c.begun)
	}, nil
}

// endStart ends a container whose start has failed. A program that has run ends as any other, with its poststop hooks, and waits
// to be deleted: a daemon that was not there when the start began has seen it running, and has to find its end.
func (c *container) endStart(ctx context.Context) error {
	if !c.ran() {
		return c.destroyByForce(ctx)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), hookrun.PoststopLimit+3*killLimit)
	defer cancel()
	if err := c.kill(ctx, unix.SIGKILL, true); err != nil && !errdefs.IsFailedPrecondition(err) {
		return err
	}
	_, err := c.init.await(ctx)
	return err
}

// run lets the program run, unless the container was destroyed meanwhile.
func (c *container) run() error {
	release, err := c.take(c.life)
	if err != nil {
		return err
	}
	defer release()
	if err := c.commit(); err != nil {
		return err
	}
	c.init.io.start()
	c.s.oom.follow(c)
	if c.rich != nil {
		if err := c.rich.start(); err != nil {
			return err
		}
	}
	now := time.Now() // before the program can be seen running, so that no child of it is older
	if err := c.release(); err != nil {
		return err
	}
	c.mu.Lock()
	c.startedAt = now
	if c.status == task.Created { // it may have ended already
		c.status = task.Running
	}
	c.mu.Unlock()
	return c.node.run(hookrun.Poststart, specs.StateRunning, c.init.pid)
}

// commit decides that the program runs, unless the start was given up before.
func (c *container) commit() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.life.Err() != nil {
		return errDestroyed
	}
	c.letGo = true
	return nil
}

// giveUp ends a start under way, and any that may come. It says no where that is too late, for the program runs or is about to.
func (c *container) giveUp() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.status != task.Created || c.letGo {
		return false
	}
	c.silent = true
	c.doom()
	return true
}

// errDestroyed says why a start has come to an end.
var errDestroyed = fmt.Errorf("the container is being removed: %w", errdefs.ErrAborted)

// release opens exec.fifo, at which runc's init waits, and reads the byte that it writes before its execve. It does
// what libcontainer's Exec does, without a thread and a routine that would hang for ever behind a dead init.
func (c *container) release() error {
	path := filepath.Join(c.s.dir.Libcontainer(), c.id, "exec.fifo")
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open exec.fifo: %w", err)
	}
	f := pollfile.New(fd, path)
	defer f.Close()
	_ = f.SetReadDeadline(time.Now().Add(startLimit))
	finished := make(chan struct{})
	defer close(finished)
	crash.Go(c.log, "watch a start", func() {
		select {
		case <-c.init.gone:
			_ = f.SetReadDeadline(time.Unix(1, 0))
		case <-finished:
		}
	})
	ran, err := readByte(f)
	if err != nil && !ran {
		// It may have written, run and ended before the end of the init was noticed.
		one := make([]byte, 1)
		raw, rawErr := f.SyscallConn()
		if rawErr == nil {
			_ = raw.Control(func(fd uintptr) {
				n, _ := read(int(fd), one)
				ran = n == 1
			})
		}
	}
	switch {
	case ran:
	case c.init.isGone():
		return fmt.Errorf("the container's init died (code %d) before its program ran: %w", c.init.end.Code, errdefs.ErrAborted)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("the program did not begin within %s: %w", startLimit, context.DeadlineExceeded)
	default:
		return fmt.Errorf("read exec.fifo: %w", err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove exec.fifo: %w", err) // libcontainer would take it for created
	}
	return nil
}

// awaitProgram waits until the init of a container that has just been started is its program and can take a signal: until its
// execve it is runc's init, which would take it in the program's place, and the kernel drops what pid 1 of a namespace has no
// handler for yet. Nothing tells of either; both follow at once. A program that never has a handler loses nothing.
func (c *container) awaitProgram(signal unix.Signal) {
	c.mu.Lock()
	until := c.startedAt.Add(programLimit)
	c.mu.Unlock()
	for ; time.Now().Before(until); time.Sleep(time.Millisecond) {
		st, err := shimstate.ReadStat(c.init.pid)
		if err != nil || st.State == 'Z' || !isRuncInit(st.Comm) && (!c.privatePID || takes(c.init.pid, signal)) {
			return
		}
	}
}

// takes says whether a process has a handler for a signal, or keeps it until it looks.
func takes(pid int, signal unix.Signal) bool {
	if signal < 1 || signal == unix.SIGSTOP {
		return true
	}
	in, err := signalIn(pid, signal, "SigBlk", "SigCgt")
	return err != nil || in
}

// readByte waits for one byte. As long as no writer has come, a read gives 0 bytes, which is no end of file here.
func readByte(f *pollfile.File) (bool, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return false, err
	}
	one := make([]byte, 1)
	for pause := (exhaustion.Pause{}); ; time.Sleep(pause.Next()) {
		got := false
		var readErr error
		err = raw.Read(func(fd uintptr) bool {
			n, err := read(int(fd), one)
			got = n == 1
			if err != unix.EAGAIN {
				readErr = err
			}
			return got || readErr != nil
		})
		if err != nil || !exhaustion.Is(readErr) {
			return got, errors.Join(err, readErr)
		}
	}
}
