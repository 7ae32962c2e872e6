package cgrouptree

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/exhaustion"
)

// killPoll is how often a dying tree is looked at: v1 tells nobody when it is empty.
const killPoll = 5 * time.Millisecond

// check refuses a tree that contains the root of a hierarchy: to kill that would be to kill the host. Only a cgroup
// that is not the root has a folder with cgroup.procs above it.
func (t Tree) check() error {
	for _, p := range t {
		if p == "" {
			continue
		}
		if _, err := os.Stat(p); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if _, err := os.Stat(filepath.Join(filepath.Dir(filepath.Clean(p)), "cgroup.procs")); err != nil {
			return fmt.Errorf("cgroup %s is the root of its hierarchy, a container cannot own it: %w", p, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// Kill sends SIGKILL to all processes, forks included, and returns when the tree is empty or ctx ends. A frozen tree is
// thawed, else nothing in it could die.
func (t Tree) Kill(ctx context.Context) error { return t.KillBut(ctx, 0) }

// KillBut is Kill for all processes but one, which may be what reaps the others.
func (t Tree) KillBut(ctx context.Context, keep int) error {
	if err := t.check(); err != nil {
		return err
	}
	defer t.Thaw()
	for again := false; ; again = true {
		pids, err := t.killPass(ctx, keep, again)
		if exhaustion.Is(err) && ctx.Err() == nil { // who is left cannot be told for now
			time.Sleep(killPoll)
			continue
		}
		if err != nil || len(pids) == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d processes of cgroup %s do not die, the first is %d: %w", len(pids), t.list(), pids[0], ctx.Err())
		case <-time.After(killPoll):
		}
	}
}

// killPass kills all processes but one, and gives those that were there. Before it lists them it has the kernel kill or freeze
// them all at once: they could fork, and make cgroups faster than these are looked through.
func (t Tree) killPass(ctx context.Context, keep int, again bool) ([]int, error) {
	killed := keep == 0 && t.killV2()
	if !killed {
		t.freeze()
	}
	pids, err := t.all(ctx)
	pids = slices.DeleteFunc(pids, func(pid int) bool { return pid == keep })
	if !killed { // by number only where it must be: the list of many processes is old when its end is come to
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	if p := t["freezer"]; p != "" { // what is frozen on v1 dies when it is thawed
		t.Thaw()
		if again && len(pids) > 0 { // root inside may have frozen a part of it
			err = errors.Join(err, thawBelow(ctx, p))
		}
	}
	return pids, err
}

// killV2 has the kernel kill a tree of cgroup v2 (Linux 5.14), forks in progress too; false: it cannot.
func (t Tree) killV2() bool {
	p, ok := t.v2()
	return ok && os.WriteFile(filepath.Join(p, "cgroup.kill"), []byte("1"), 0) == nil
}

// freeze has a tree freeze, and does not wait for it; one that is gone is left alone.
func (t Tree) freeze() {
	if p := t["freezer"]; p != "" {
		_ = os.WriteFile(filepath.Join(p, "freezer.state"), []byte("FROZEN"), 0)
	}
	if p, ok := t.v2(); ok { // what is frozen there dies all the same
		_ = os.WriteFile(filepath.Join(p, "cgroup.freeze"), []byte("1"), 0)
	}
}

// Thaw lets frozen processes go on; a tree that is not frozen or is gone is left alone.
func (t Tree) Thaw() {
	if p := t["freezer"]; p != "" {
		_ = os.WriteFile(filepath.Join(p, "freezer.state"), []byte("THAWED"), 0)
	}
	if p, ok := t.v2(); ok {
		_ = os.WriteFile(filepath.Join(p, "cgroup.freeze"), []byte("0"), 0)
	}
}

// thawBelow thaws every cgroup of the freezer's hierarchy by itself.
func thawBelow(ctx context.Context, root string) error {
	err := walk(ctx, root, visitor{enter: func(dir *os.File) error {
		fd, err := unix.Openat(int(dir.Fd()), "freezer.state", unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err == nil {
			_, _ = unix.Write(fd, []byte("THAWED"))
			_ = unix.Close(fd)
		}
		return nil
	}})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
