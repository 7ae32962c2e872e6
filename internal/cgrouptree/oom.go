package cgrouptree

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// OOMKills reads how many processes of the container the kernel's OOM killer ended: memory.events on v2 (which counts
// the cgroups below too), memory.oom_control on v1 (Linux 4.13; which does not). 0 when it cannot be read.
func (t Tree) OOMKills() uint64 {
	if p, ok := t.v2(); ok {
		return keyed(filepath.Join(p, "memory.events"))["oom_kill"]
	}
	root := t["memory"]
	if root == "" {
		return 0
	}
	var sum uint64
	_ = walk(context.Background(), root, visitor{most: maxCounted, enter: func(dir *os.File) error {
		b, err := readIn(dir, "memory.oom_control")
		if err == nil {
			sum += keyedIn(b)["oom_kill"]
		}
		return nil
	}})
	return sum
}

// maxCounted bounds the cgroups that kills are counted in: this happens often, and on v1 a container of ours has two.
const maxCounted = 1 << 10

// SuspendOOMGroup makes the OOM killer take single processes of the tree until resume is called, where it takes all of it
// together (memory.oom.group of cgroup v2).
func (t Tree) SuspendOOMGroup() (resume func() error) {
	nothing := func() error { return nil }
	p, ok := t.v2()
	if !ok {
		return nothing
	}
	file := filepath.Join(p, "memory.oom.group")
	if b, err := os.ReadFile(file); err != nil || strings.TrimSpace(string(b)) != "1" {
		return nothing
	}
	if err := os.WriteFile(file, []byte("0"), 0); err != nil {
		return nothing
	}
	return func() error {
		err := os.WriteFile(file, []byte("1"), 0)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
}

// Parent is the folder above a v2 tree, empty on v1.
func (t Tree) Parent() string {
	p, ok := t.v2()
	if !ok {
		return ""
	}
	return filepath.Dir(filepath.Clean(p))
}

// ParentOOMKills reads the kernel's count for the cgroup above, with everything that is or ever was below it; 0 on v1,
// which does not add up. It outlives the tree, so that a kill shows in it after somebody else removed the tree.
func (t Tree) ParentOOMKills() uint64 {
	p := t.Parent()
	if p == "" {
		return 0
	}
	return keyed(filepath.Join(p, "memory.events"))["oom_kill"]
}

// Gone says that the folders of the tree are not there any more.
func (t Tree) Gone() bool {
	_, err := os.Stat(t.list())
	return errors.Is(err, fs.ErrNotExist)
}

// keyed reads a file of "key value" lines; an unreadable one is empty.
func keyed(path string) map[string]uint64 {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	return keyedIn(b)
}

func keyedIn(b []byte) map[string]uint64 {
	m := map[string]uint64{}
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.ParseUint(value, 10, 64); err == nil {
			m[key] = n
		}
	}
	return m
}
