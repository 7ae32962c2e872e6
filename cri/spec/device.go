package spec

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// maxDevices bounds the nodes that a folder of devices may hold.
const maxDevices = 4096

// devices forbids all devices, then allows the asked ones. /dev/null and its like are the shim's (OCI "Default Devices"). A
// privileged container may use every device and sees the node's.
func (b *Builder) devices(in Input, sp *specs.Spec) error {
	rules := []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	if in.Config.Security.Privileged {
		rules = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
		all, err := devicesIn(b.host.dev, "/dev", true)
		if err != nil {
			return err
		}
		addDevices(sp, all)
	}
	for _, d := range in.Config.Devices {
		found, err := asked(d.HostPath, d.ContainerPath)
		if err != nil {
			return fmt.Errorf("device %s: %w", d.HostPath, err)
		}
		addDevices(sp, found)
		if in.Config.Security.Privileged {
			continue
		}
		for _, n := range found {
			major, minor := n.Major, n.Minor
			rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: n.Type, Major: &major, Minor: &minor, Access: d.Permissions})
		}
	}
	sp.Linux.Resources.Devices = rules
	return nil
}

// addDevices adds nodes; a later one takes the place of one at the same path.
func addDevices(sp *specs.Spec, found []specs.LinuxDevice) {
	for _, d := range found {
		sp.Linux.Devices = slices.DeleteFunc(sp.Linux.Devices, func(o specs.LinuxDevice) bool { return o.Path == d.Path })
		sp.Linux.Devices = append(sp.Linux.Devices, d)
	}
}

// asked gives the node at hostPath, or all nodes below it if it is a folder, seen at containerPath. A link is followed.
func asked(hostPath, containerPath string) ([]specs.LinuxDevice, error) {
	resolved, err := filepath.EvalSymlinks(hostPath)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrFailedPrecondition)
	}
	st, err := os.Lstat(resolved)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrFailedPrecondition)
	}
	if st.IsDir() {
		found, err := devicesIn(resolved, containerPath, false)
		if err == nil && len(found) == 0 {
			err = fmt.Errorf("the folder holds no device: %w", errdefs.ErrInvalidArgument)
		}
		return found, err
	}
	d, ok := node(st, containerPath)
	if !ok {
		return nil, fmt.Errorf("it is no device: %w", errdefs.ErrInvalidArgument)
	}
	return []specs.LinuxDevice{d}, nil
}

// node describes the device node st; false if it is none.
func node(st fs.FileInfo, at string) (specs.LinuxDevice, bool) {
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok || st.Mode()&fs.ModeDevice == 0 {
		return specs.LinuxDevice{}, false
	}
	kind := "b"
	if st.Mode()&fs.ModeCharDevice != 0 {
		kind = "c"
	}
	mode, uid, gid := os.FileMode(sys.Mode&0o7777), sys.Uid, sys.Gid
	return specs.LinuxDevice{
		Path: at, Type: kind, Major: int64(unix.Major(sys.Rdev)), Minor: int64(unix.Minor(sys.Rdev)),
		FileMode: &mode, UID: &uid, GID: &gid,
	}, true
}

// skipped says what of the node's /dev no container gets: file systems of their own that belong to one namespace, and the
// terminals of the node's sessions.
func skipped(rel string) bool {
	switch rel {
	case "pts", "shm", "mqueue", "hugepages", "fd", ".lxc", ".lxd-mounts", ".udev", "console", "tty", "ptmx":
		return true
	}
	return false
}

// devicesIn gives the device nodes below dir, seen below containerPath; links are not followed. ofNode says that dir is the
// node's /dev.
func devicesIn(dir, containerPath string, ofNode bool) ([]specs.LinuxDevice, error) {
	var out []specs.LinuxDevice
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && p != dir {
			return nil // it went away meanwhile
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		if ofNode && skipped(rel) {
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if e.Type()&fs.ModeDevice == 0 {
			return nil
		}
		st, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if d, ok := node(st, path.Join(containerPath, rel)); ok {
			out = append(out, d)
		}
		if len(out) > maxDevices {
			return fmt.Errorf("more than %d devices: %w", maxDevices, errdefs.ErrInvalidArgument)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for devices in %s: %w", dir, err)
	}
	return out, nil
}
