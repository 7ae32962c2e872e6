// Package cgrouptree does to the cgroup of a container, with all cgroups below it, what needs no configuration: list
// and kill its processes, remove it, read its figures. It works on cgroup v1, v2 and hybrid hosts alike.
package cgrouptree

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Tree is a container's cgroup: folders by controller on v1, one folder under "" on v2.
type Tree map[string]string

// v2 gives the one folder of a cgroup v2 tree.
func (t Tree) v2() (string, bool) {
	p, ok := t[""]
	return p, ok && len(t) == 1
}

// list gives the folder to list processes from: any one holds them all; devices is the one that a container can least
// rearrange, since it is never delegated. v2's beside those of v1 is an init's own.
func (t Tree) list() string {
	for _, controller := range []string{"devices", "pids", "freezer", "memory", "cpu", "", "name=systemd"} {
		if p := t[controller]; p != "" {
			return p
		}
	}
	for _, controller := range slices.Sorted(maps.Keys(t)) {
		if t[controller] != "" {
			return t[controller]
		}
	}
	return ""
}

// Pids gives the processes of the tree, seen from the caller's pid namespace; none when the cgroup is gone. ResourceExhausted: it has
// more cgroups than anybody needs.
func (t Tree) Pids() ([]int, error) {
	root := t.list()
	if root == "" {
		return nil, nil
	}
	return pidsBelow(context.Background(), root, maxListed)
}

func pidsBelow(ctx context.Context, root string, most int) ([]int, error) {
	var pids []int
	err := walk(ctx, root, visitor{most: most, enter: func(dir *os.File) error {
		b, err := readIn(dir, "cgroup.procs")
		// ENODEV: removed since. EOPNOTSUPP: a threaded cgroup, its processes stand in its domain.
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EOPNOTSUPP) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, f := range strings.Fields(string(b)) {
			if pid, err := strconv.Atoi(f); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return nil
	}})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list processes of cgroup %s: %w", root, err)
	}
	return pids, nil
}

// Members gives the names of the cgroups right below the tree's own, and whether that holds processes itself. os.ErrNotExist
// when it is gone.
func (t Tree) Members() (names []string, processes bool, err error) {
	root := t.list()
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, false, err
	}
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	b, err := os.ReadFile(filepath.Join(root, "cgroup.procs"))
	if errors.Is(err, unix.EOPNOTSUPP) { // a threaded cgroup, its processes stand in its domain
		return names, true, nil
	}
	return names, len(b) > 0, err
}

// all gives the processes of every hierarchy: one that is just joining may be in some of them only.
func (t Tree) all(ctx context.Context) ([]int, error) {
	var pids []int
	var errs []error
	for _, p := range t {
		if p == "" {
			continue
		}
		more, err := pidsBelow(ctx, p, 0)
		pids = append(pids, more...)
		errs = append(errs, err)
	}
	slices.Sort(pids)
	return slices.Compact(pids), errors.Join(errs...)
}

// Signal sends a signal to every process of the tree, once.
func (t Tree) Signal(s unix.Signal) error {
	if err := t.check(); err != nil {
		return err
	}
	pids, err := t.Pids()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := unix.Kill(pid, s); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("signal %d to process %d: %w", s, pid, err)
		}
	}
	return nil
}

// Remove removes the folders of an empty tree, in all hierarchies. What is gone already is no error; EBUSY, which the
// kernel gives until the last zombie is reaped, is tried again until ctx ends.
func (t Tree) Remove(ctx context.Context) error { return t.untilDone(ctx, removeOnce) }

// Prune removes what is below an empty tree, as Remove does.
func (t Tree) Prune(ctx context.Context) error { return t.untilDone(ctx, pruneOnce) }

func (t Tree) untilDone(ctx context.Context, remove func(ctx context.Context, root string) error) error {
	var errs []error
	for _, p := range t {
		if p != "" {
			errs = append(errs, removeBelow(ctx, p, remove))
		}
	}
	return errors.Join(errs...)
}

func removeBelow(ctx context.Context, root string, remove func(ctx context.Context, root string) error) error {
	for {
		err := remove(ctx, root)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("remove cgroup %s: %w", root, err)
		case <-time.After(killPoll):
		}
	}
}

// removeOnce removes the deepest folders first. It uses rmdir only: the files in a cgroup cannot be unlinked.
func removeOnce(ctx context.Context, root string) error {
	if err := pruneOnce(ctx, root); err != nil {
		return err
	}
	if err := unix.Rmdir(root); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}

func pruneOnce(ctx context.Context, root string) error {
	err := walk(ctx, root, visitor{
		enter: func(*os.File) error { return nil },
		leave: func(parent *os.File, name string) error {
			if err := unix.Unlinkat(int(parent.Fd()), name, unix.AT_REMOVEDIR); err != nil && !errors.Is(err, unix.ENOENT) {
				return err
			}
			return nil
		},
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
