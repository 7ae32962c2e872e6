package cgrouptree

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestASubCgroupTakesProcessesAndAllButOneDie(t *testing.T) {
	tr := tree(t)
	sub := tr.Sub("sub")
	for range 2 { // what is there is left as it is
		if err := sub.Make(); err != nil {
			t.Fatal(err)
		}
	}
	outside, keep, other := enter(t, tr, "below"), enter(t, sub, ""), enter(t, sub, "")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- other.Wait() }()
	if err := sub.KillBut(ctx, keep.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil || err.Error() != "signal: killed" {
		t.Errorf("the other ended with %v", err)
	}
	pids, err := tr.Pids()
	if err != nil || len(pids) != 2 || pids[0]+pids[1] != keep.Process.Pid+outside.Process.Pid {
		t.Errorf("left are %v, %v", pids, err)
	}
	// Neither is frozen.
	if err := errors.Join(tr.Kill(ctx), keepWait(keep.Wait()), keepWait(outside.Wait()), sub.Remove(ctx)); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(sub.list()); !os.IsNotExist(err) {
		t.Errorf("the sub cgroup is there: %v", err)
	}
}

// keepWait takes the end by SIGKILL for what was expected.
func keepWait(err error) error {
	if err != nil && err.Error() == "signal: killed" {
		return nil
	}
	return err
}

func TestACpusetOfV1GetsItsParents(t *testing.T) {
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"cpuset/cpuset.cpus": "0-3\n", "cpuset/cpuset.mems": "0\n", "pids/pids.max": "max\n"})
	sub := Tree{"cpuset": filepath.Join(dir, "cpuset"), "pids": filepath.Join(dir, "pids"), "": ""}.Sub("s")
	if len(sub) != 2 {
		t.Errorf("%v", sub)
	}
	if err := sub.Make(); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{"cpuset.cpus": "0-3\n", "cpuset.mems": "0\n"} {
		if got, err := os.ReadFile(filepath.Join(dir, "cpuset/s", file)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", file, got, err)
		}
	}
	if err := (Tree{"pids": filepath.Join(dir, "gone/s")}).Make(); err == nil {
		t.Error("one without a parent was made")
	}
}

func TestTheOOMGroupIsSuspended(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "memory.oom.group")
	read := func() string { b, _ := os.ReadFile(file); return string(b) }
	resume := (Tree{"": dir}).SuspendOOMGroup() // a kernel without it
	if err := resume(); err != nil || read() != "" {
		t.Errorf("%q, %v", read(), err)
	}
	for _, was := range []string{"0", "1"} {
		writeFiles(t, dir, map[string]string{"memory.oom.group": was})
		resume := (Tree{"": dir}).SuspendOOMGroup()
		if read() != "0" {
			t.Errorf("suspended it is %q", read())
		}
		if err := resume(); err != nil || read() != was {
			t.Errorf("%q instead of %q, %v", read(), was, err)
		}
	}
	if err := (Tree{"memory": dir, "pids": dir}).SuspendOOMGroup()(); err != nil || read() != "1" {
		t.Errorf("v1: %q, %v", read(), err)
	}
}
