package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// lockFile is held by the one cluster of the machine.
const lockFile = "/run/lock/cri-pouch-cluster"

// kubeletSysctls are the ones that a kubelet sets (pkg/kubelet/cm, setupKernelTunables), below /proc/sys.
var kubeletSysctls = []string{"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes"}

// kubeletPaths are used by a kubelet whatever its flags say; parents first.
var kubeletPaths = []string{"/var/lib/kubelet", "/var/lib/kubelet/device-plugins", logLinks}

// logLinks has a symbolic link to each container's log.
const logLinks = "/var/log/containers"

// takeMachine takes the machine for this cluster and notes what a kubelet changes on it, so that Close can put it back.
func (c *Cluster) takeMachine(ctx context.Context) error {
	if err := c.lock(ctx); err != nil {
		return err
	}
	for _, name := range kubeletSysctls {
		path := filepath.Join("/proc/sys", name)
		value, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read sysctl %s: %w", name, err)
		}
		c.undo.Add("restore sysctl "+name, func(context.Context) error { return restore(path, value) })
	}
	c.undo.Add("remove links to logs", func(context.Context) error { return c.removeLogLinks() })
	for _, path := range kubeletPaths {
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			c.undo.Add("remove "+path, func(context.Context) error { return os.RemoveAll(path) })
		}
	}
	return nil
}

func (c *Cluster) lock(ctx context.Context) error {
	f, err := os.OpenFile(lockFile, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("open the lock of clusters: %w", err)
	}
	c.undo.Add("give the machine back", func(context.Context) error { return f.Close() })
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return fmt.Errorf("lock %s: %w", lockFile, err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("another cluster runs on this machine (it holds %s): %w", lockFile, ctx.Err())
		}
	}
}

// restore writes a sysctl where it has changed: some cannot be written by every root.
func restore(path string, value []byte) error {
	now, err := os.ReadFile(path)
	if err != nil || string(now) == string(value) {
		return err
	}
	return os.WriteFile(path, value, 0)
}

// removeLogLinks removes the links that lead to the cluster's logs.
func (c *Cluster) removeLogLinks() error {
	entries, err := os.ReadDir(logLinks)
	if err != nil || c.Lab == nil {
		return nil // no kubelet ever ran
	}
	var errs []error
	for _, e := range entries {
		path := filepath.Join(logLinks, e.Name())
		if target, err := os.Readlink(path); err == nil && strings.HasPrefix(target, c.Lab.Dir+"/") {
			errs = append(errs, os.Remove(path))
		}
	}
	return errors.Join(errs...)
}

// makeBridge makes the bridge that the pods' network will use, with the address at which the API server and the kubelet
// listen: a kubelet refuses loopback. The lab removes it.
func (c *Cluster) makeBridge() error {
	attributes := netlink.NewLinkAttrs()
	attributes.Name = c.Lab.Network.Bridge
	bridge := &netlink.Bridge{LinkAttrs: attributes}
	if err := netlink.LinkAdd(bridge); err != nil {
		return fmt.Errorf("make bridge %s: %w", attributes.Name, err)
	}
	address, err := netlink.ParseAddr(fmt.Sprintf("%s/%d", c.IP, c.Lab.Network.Subnet.Bits()))
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(bridge, address); err != nil {
		return fmt.Errorf("give %s to bridge %s: %w", address, attributes.Name, err)
	}
	if err := netlink.LinkSetUp(bridge); err != nil {
		return fmt.Errorf("set bridge %s up: %w", attributes.Name, err)
	}
	return nil
}

// makeCgroups makes the kubelet's cgroup root in every hierarchy: a kubelet wants it beforehand. The lab removes it.
func (c *Cluster) makeCgroups() error {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return fmt.Errorf("list cgroup hierarchies: %w", err)
	}
	for _, m := range mounts {
		dir := filepath.Join(m.Mountpoint, c.Lab.CgroupParent())
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make the kubelet's cgroup root: %w", err)
		}
		// On cgroup v1 a cpuset without CPUs and memory nodes takes no process.
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			value, err := os.ReadFile(filepath.Join(m.Mountpoint, file))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, file), value, 0)
			}
			if err != nil {
				return fmt.Errorf("fill %s of the kubelet's cgroup root: %w", file, err)
			}
		}
	}
	return nil
}

// makeDisk makes a filesystem of its own for the runtime's root, of so many bytes, so that a test can fill it.
func (c *Cluster) makeDisk(ctx context.Context, size int64) error {
	dir, err := os.MkdirTemp("", "cpt-disk-")
	if err != nil {
		return err
	}
	c.undo.Add("remove the disk", func(context.Context) error { return os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil { // the way to root filesystems of user namespaces
		return err
	}
	image := filepath.Join(dir, "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(image, size); err != nil {
		return err
	}
	c.Disk = filepath.Join(dir, "mount")
	if err := os.Mkdir(c.Disk, 0o711); err != nil {
		return err
	}
	for _, command := range [][]string{{"mkfs.ext4", "-q", "-F", "-m", "0", image}, {"mount", "-o", "loop", image, c.Disk}} {
		if out, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, out)
		}
	}
	c.undo.Add("unmount the disk", func(context.Context) error { return unix.Unmount(c.Disk, 0) })
	c.Options.Lab.Root = filepath.Join(c.Disk, "root")
	return nil
}
