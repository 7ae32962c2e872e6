package client

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/cgrouptree"
	"github.com/cri-pouch/cri-pouch/internal/crash"
	"github.com/cri-pouch/cri-pouch/internal/exhaustion"
	"github.com/cri-pouch/cri-pouch/internal/failpoint"
	"github.com/cri-pouch/cri-pouch/internal/shimstate"
)

// sweepLimit bounds the end of one container.
const sweepLimit = 10 * time.Second

// sweepAtOnce is how many containers are ended side by side: one whose processes do not die must not make the others wait.
const sweepAtOnce = 32

// sweep ends the containers that a dead shim left and removes what it kept of them. The caller holds the shim's lock.
// One that cannot be ended is logged and left for the next sweep. Where the machine lacks memory or descriptors for it, the sweep
// fails and is to be repeated.
func (c *Client) sweep(ctx context.Context) error {
	records, err := c.dir.Records()
	if err != nil {
		return err
	}
	var group errgroup.Group
	group.SetLimit(sweepAtOnce)
	for _, r := range records {
		if !r.Hook {
			c.mu.Lock()
			c.lost[r.ID] = true
			c.mu.Unlock()
		}
		group.Go(crash.GuardError(c.o.Log, "end a container that its shim left", func() error {
			log := c.o.Log.WithField("container", r.ID)
			if err := c.end(ctx, r); err != nil {
				log.WithError(err).Error("a container that its shim left cannot be ended")
				if exhaustion.Is(err) {
					return fmt.Errorf("end container %s: %w", r.ID, err)
				}
				return nil
			}
			failpoint.Hit("shim.container-swept")
			log.Warn("a container died with its shim")
			return nil
		}))
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if err := os.Remove(c.dir.Socket()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the socket of the dead shim: %w", err)
	}
	return nil
}

// end kills what runs of a container, then removes its cgroups and state; its record goes last, so that an interrupted
// sweep can be repeated.
func (c *Client) end(ctx context.Context, r shimstate.Record) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sweepLimit)
	defer cancel()
	if err := killProcess(r); err != nil {
		return err
	}
	tree := cgrouptree.Tree(r.CgroupPaths)
	if err := tree.Kill(ctx); err != nil {
		return err
	}
	if err := tree.Remove(ctx); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(c.dir.Libcontainer(), r.ID)); err != nil {
		return fmt.Errorf("remove libcontainer's state: %w", err)
	}
	if err := os.RemoveAll(c.dir.Container(r.ID)); err != nil {
		return fmt.Errorf("remove the shim's state: %w", err)
	}
	return nil
}

// killProcess kills the container's init, unless its pid belongs to somebody else by now.
func killProcess(r shimstate.Record) error {
	if r.Pid <= 0 {
		return nil
	}
	fd, err := unix.PidfdOpen(r.Pid, 0)
	if exhaustion.Is(err) {
		return fmt.Errorf("open pidfd of process %d: %w", r.Pid, err)
	}
	if err != nil {
		return nil // there is none
	}
	defer unix.Close(fd)
	// Looked up after the descriptor was opened, the start time is that of the process which the descriptor holds.
	st, err := shimstate.ReadStat(r.Pid)
	if exhaustion.Is(err) {
		return fmt.Errorf("look at process %d: %w", r.Pid, err)
	}
	if err == nil && st.StartTime == r.StartTime {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	}
	return nil
}
