package server

import (
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// host is what the choice of a cgroup driver asks of the node.
type host struct {
	systemd  bool // systemd runs the node: sd_booted(3)
	cgroupV2 bool // the unified hierarchy is mounted at /sys/fs/cgroup
}

func probeHost() host {
	var fs unix.Statfs_t
	h := host{}
	if err := unix.Statfs("/sys/fs/cgroup", &fs); err == nil {
		h.cgroupV2 = fs.Type == unix.CGROUP2_SUPER_MAGIC
	}
	if info, err := os.Lstat("/run/systemd/system"); err == nil {
		h.systemd = info.IsDir()
	}
	return h
}

// systemdCgroup says whether driver (a checked runtime.cgroup_driver) means systemd on h.
func systemdCgroup(driver string, h host) (bool, error) {
	switch driver {
	case "systemd":
		if !h.systemd {
			return false, fmt.Errorf(`runtime.cgroup_driver is "systemd", but systemd does not run this node: set "auto" or "cgroupfs": %w`, errdefs.ErrFailedPrecondition)
		}
		return true, nil
	case "auto":
		return h.systemd && h.cgroupV2, nil
	}
	return false, nil
}
