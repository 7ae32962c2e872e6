package cgrouptree

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Sub is a cgroup right below the tree's own, in each of its hierarchies.
func (t Tree) Sub(name string) Tree {
	sub := Tree{}
	for controller, p := range t {
		if p != "" {
			sub[controller] = filepath.Join(p, name)
		}
	}
	return sub
}

// Make makes the folders of a tree whose parents are there. On v1 a cgroup of cpuset takes nobody in before it has CPUs and
// memory nodes: it gets its parent's (cpusets(7)). What is there already is left as it is.
func (t Tree) Make() error {
	for _, p := range t {
		if p == "" {
			continue
		}
		if err := os.Mkdir(p, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make cgroup: %w", err)
		}
	}
	p := t["cpuset"]
	if p == "" {
		return nil
	}
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		have, err := os.ReadFile(filepath.Join(filepath.Dir(p), file))
		if err == nil {
			err = os.WriteFile(filepath.Join(p, file), have, 0)
		}
		if err != nil {
			return fmt.Errorf("make cgroup: %w", err)
		}
	}
	return nil
}
