package shim

import (
	"strings"
	"testing"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
)

func TestAProcessIsNotBornInTheContainersCgroup(t *testing.T) {
	lc, err := libcontainer.Create(t.TempDir(), "c", &configs.Config{
		Cgroups: &cgroups.Cgroup{Path: "/late-joiner-test", Resources: &cgroups.Resources{}},
		Rootfs:  t.TempDir(), Namespaces: configs.Namespaces{{Type: configs.NEWPID}},
	})
	if err != nil {
		t.Fatal(err)
	}
	before, err := lc.State()
	if err != nil {
		t.Fatal(err)
	}
	if err := joinLate(lc); err != nil {
		t.Fatal(err)
	}
	after, err := lc.State()
	if err != nil || len(after.CgroupPaths) != len(before.CgroupPaths) {
		t.Errorf("the container's cgroups are %v, they were %v (%v)", after.CgroupPaths, before.CgroupPaths, err)
	}
	if _, err := lc.NotifyOOM(); !cgroups.IsCgroup2UnifiedMode() && (err == nil || !strings.Contains(err.Error(), "missing")) { // it asks the manager for a path
		t.Errorf("the manager has a path still: %v", err)
	}
}
