package cgrouptree

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// tree makes a cgroup of its own, in some v1 hierarchies or in v2, whatever the host has.
func tree(t *testing.T) Tree {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: cgroups are made")
	}
	name := "cgrouptree-test-" + strconv.Itoa(os.Getpid())
	tr := Tree{}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		tr[""] = filepath.Join("/sys/fs/cgroup", name)
	} else {
		for _, c := range []string{"pids", "freezer", "memory"} {
			tr[c] = filepath.Join("/sys/fs/cgroup", c, name)
		}
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := errors.Join(tr.Kill(ctx), tr.Remove(ctx)); err != nil {
			t.Error(err)
		}
	})
	for _, p := range tr {
		if err := os.MkdirAll(filepath.Join(p, "below"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return tr
}

// enter starts a process in a cgroup below the tree's.
func enter(t *testing.T, tr Tree, sub string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for _, p := range tr {
		if err := os.WriteFile(filepath.Join(p, sub, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
			t.Fatal(err)
		}
	}
	return cmd
}

func TestKillAndRemove(t *testing.T) {
	tr := tree(t)
	a, b := enter(t, tr, "below"), enter(t, tr, "below")
	pids, err := tr.Pids()
	if err != nil || len(pids) != 2 {
		t.Fatalf("%v, %v", pids, err)
	}
	s, err := tr.Stats()
	if err != nil || s.Pids != 2 && s.Pids != 0 { // 0: the controller is not switched on
		t.Errorf("%+v, %v", s, err)
	}
	if p := tr["freezer"]; p != "" { // what is frozen dies too
		if err := os.WriteFile(filepath.Join(p, "freezer.state"), []byte("FROZEN"), 0); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := tr.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	for _, cmd := range []*exec.Cmd{a, b} {
		if err := cmd.Wait(); err == nil || err.Error() != "signal: killed" {
			t.Errorf("it ended with %v", err)
		}
	}
	for range 2 { // the second time nothing is there
		if err := errors.Join(tr.Kill(ctx), tr.Remove(ctx)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := tr.Stats(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("stats of a removed one: %v", err)
	}
}

func TestTheRootIsRefused(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: cgroups are looked at")
	}
	for _, root := range []string{"/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory/", "/sys/fs/cgroup", "/"} {
		if _, err := os.Stat(root); err != nil {
			continue
		}
		tr := Tree{"memory": root}
		// A context that has ended: were the guard gone, the first pass would be the last.
		if err := tr.check(); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", root, err)
		}
	}
}
