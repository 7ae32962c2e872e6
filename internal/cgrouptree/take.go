package cgrouptree

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// Take moves a process into the cgroup, in each of its hierarchies.
func (t Tree) Take(pid int) error {
	for _, p := range t {
		if p == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(p, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
			return fmt.Errorf("move process %d into its cgroup: %w", pid, err)
		}
	}
	return nil
}
