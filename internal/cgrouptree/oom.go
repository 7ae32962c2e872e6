package cgrouptree

import (
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
	_ = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			sum += keyed(filepath.Join(path, "memory.oom_control"))["oom_kill"]
		}
		return nil
	})
	return sum
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
	m := map[string]uint64{}
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.ParseUint(value, 10, 64); err == nil {
			m[key] = n
		}
	}
	return m
}
