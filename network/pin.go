package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/failpoint"
	"github.com/cri-pouch/cri-pouch/internal/mountpoint"
)

// kind is one of the namespaces that a pod has; its name is that of the file under /proc/PID/ns and of the pin.
type kind struct {
	name string
	flag uintptr
}

// kinds are in the order in which they are pinned: the pod's set is complete when the last one is there.
var kinds = []kind{{"net", unix.CLONE_NEWNET}, {"ipc", unix.CLONE_NEWIPC}, {"uts", unix.CLONE_NEWUTS}, {"user", unix.CLONE_NEWUSER}}

// kindsOf are the namespaces that pod has of its own. On the host network it has the node's UTS namespace too.
func kindsOf(pod Pod) []kind {
	own := map[string]bool{"net": !pod.HostNetwork, "uts": !pod.HostNetwork, "ipc": !pod.HostIPC, "user": len(pod.UIDs) > 0}
	var list []kind
	for _, k := range kinds {
		if own[k.name] {
			list = append(list, k)
		}
	}
	return list
}

// Pin makes the pod's own namespaces, sets loopback, hostname and sysctls in them, pins them under ns/ID of the state
// folder, and mounts the pod's /dev/shm. With ID mappings the namespaces belong to a user namespace of the pod's own.
// Pinning twice gives the same paths; pins that are not complete are made anew. After an error nothing is left.
func (m *Manager) Pin(ctx context.Context, pod Pod) (Namespaces, error) {
	sysctls, err := checkPod(pod)
	if err != nil {
		return Namespaces{}, err
	}
	unlock, err := m.locks.lock(ctx, pod.ID)
	if err != nil {
		return Namespaces{}, err
	}
	defer unlock()
	if m.complete(pod) {
		return m.Namespaces(pod), nil
	}
	if err := m.unpin(pod.ID); err != nil {
		return Namespaces{}, err
	}
	if err := m.makePins(pod, sysctls); err != nil {
		return Namespaces{}, errors.Join(err, m.unpin(pod.ID))
	}
	failpoint.Hit("network.pinned")
	return m.Namespaces(pod), nil
}

func (m *Manager) makePins(pod Pod, sysctls []sysctl) error {
	own := kindsOf(pod)
	if len(own) == 0 {
		return nil
	}
	dir := filepath.Join(m.o.nsDir(), pod.ID)
	if err := os.Mkdir(dir, 0o711); err != nil {
		return fmt.Errorf("pin namespaces of sandbox %s: %w", pod.ID, err)
	}
	if !pod.HostIPC {
		if err := m.mountShm(pod); err != nil {
			return err
		}
	}
	return inNewNamespaces(pod, own, func(nsDir string) error {
		if err := configure(pod, sysctls); err != nil {
			return err
		}
		for _, k := range own {
			if err := pin(filepath.Join(nsDir, k.name), filepath.Join(dir, k.name)); err != nil {
				return fmt.Errorf("pin %s namespace of sandbox %s: %w", k.name, pod.ID, err)
			}
		}
		return nil
	})
}

// pin mounts the namespace file over a new file; the mount keeps the namespace alive.
func pin(from, to string) error {
	f, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_RDONLY|unix.O_NOFOLLOW, 0o400)
	if err != nil {
		return err
	}
	f.Close()
	return unix.Mount(from, to, "", unix.MS_BIND, "")
}

// complete says whether everything that Pin makes for pod is there.
func (m *Manager) complete(pod Pod) bool {
	for _, k := range kindsOf(pod) {
		if !isNamespace(filepath.Join(m.o.nsDir(), pod.ID, k.name)) {
			return false
		}
	}
	if pod.HostIPC {
		return true
	}
	mounted, err := mountinfo.Mounted(m.shmDir(pod.ID))
	return err == nil && mounted
}

// isNamespace says whether path is a pin with a namespace in it; after a reboot, a plain file or nothing is left of one.
func isNamespace(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// Unpin removes the pod's pins and its /dev/shm; the namespaces end with the last process in them. What is already gone
// is no error.
func (m *Manager) Unpin(ctx context.Context, sandboxID string) error {
	if err := checkID(sandboxID); err != nil {
		return err
	}
	unlock, err := m.locks.lock(ctx, sandboxID)
	if err != nil {
		return err
	}
	defer unlock()
	return m.unpin(sandboxID)
}

func (m *Manager) unpin(id string) error {
	errs := []error{m.unmountShm(id)}
	dir := filepath.Join(m.o.nsDir(), id)
	for _, k := range kinds {
		errs = append(errs, unpinFile(filepath.Join(dir, k.name)))
	}
	errs = append(errs, ignoreAbsent(os.Remove(dir)))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove pins of sandbox %s: %w", id, err)
	}
	return nil
}

// unpinFile unmounts and removes a pin. Copies of the mount that other mount namespaces may have go with the file.
func unpinFile(path string) error {
	if err := mountpoint.Clear(path); err != nil {
		return err
	}
	return ignoreAbsent(os.Remove(path))
}

func ignoreAbsent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Namespaces gives the paths of the pod's pins, whether they exist or not; an empty path is the node's own namespace.
func (m *Manager) Namespaces(pod Pod) Namespaces {
	var ns Namespaces
	into := map[string]*string{"net": &ns.Net, "ipc": &ns.IPC, "uts": &ns.UTS, "user": &ns.User}
	for _, k := range kindsOf(pod) {
		*into[k.name] = filepath.Join(m.o.nsDir(), pod.ID, k.name)
	}
	return ns
}

// shareNSDir makes the folder of pins a mount of its own with shared propagation, so that neither the pins' coming nor
// their going depends on how the node has mounted /run: a network daemon that asks for HostToContainer propagation of
// the folder sees new pins, and removals reach every copy. Containers do not ask: to them a mount is private.
func shareNSDir(dir string) error {
	mounted, err := mountinfo.Mounted(dir)
	if err == nil && !mounted {
		err = unix.Mount(dir, dir, "", unix.MS_BIND, "")
	}
	if err == nil {
		err = unix.Mount("", dir, "", unix.MS_SHARED, "")
	}
	if err != nil {
		return fmt.Errorf("make %s a mount for pinned namespaces: %w", dir, err)
	}
	return nil
}

// unshareNSDir takes the mount away when no pin is left in it.
func unshareNSDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > 0 {
		return ignoreAbsent(err)
	}
	return mountpoint.Clear(dir)
}

// checkPod refuses what cannot be done, before anything is; it gives the pod's sysctls.
func checkPod(pod Pod) ([]sysctl, error) {
	if err := checkID(pod.ID); err != nil {
		return nil, err
	}
	if err := checkHostname(pod.Hostname); err != nil {
		return nil, fmt.Errorf("sandbox %s: %w", pod.ID, err)
	}
	if (len(pod.UIDs) == 0) != (len(pod.GIDs) == 0) {
		return nil, fmt.Errorf("user namespace of sandbox %s needs both UID and GID mappings: %w", pod.ID, errdefs.ErrInvalidArgument)
	}
	for _, ids := range [][]IDMapping{pod.UIDs, pod.GIDs} {
		if _, err := rootOf(ids); len(ids) > 0 && err != nil {
			return nil, fmt.Errorf("user namespace of sandbox %s: %w", pod.ID, err)
		}
	}
	if pod.DNS != nil {
		if _, err := pod.DNS.text(); err != nil {
			return nil, fmt.Errorf("sandbox %s: %w", pod.ID, err)
		}
	}
	sysctls, err := checkSysctls(pod)
	if err != nil {
		return nil, fmt.Errorf("sandbox %s: %w", pod.ID, err)
	}
	return sysctls, nil
}

// rootOf gives the host's ID of the namespace's ID 0, which must be mapped: without it nothing in the pod can be set up.
func rootOf(ids []IDMapping) (uint32, error) {
	for _, id := range ids {
		if end := uint64(id.HostID) + uint64(id.Length); id.Length == 0 || end > 1<<32-1 || uint64(id.ContainerID)+uint64(id.Length) > 1<<32-1 {
			return 0, fmt.Errorf("ID mapping %d:%d:%d is empty or out of range: %w", id.ContainerID, id.HostID, id.Length, errdefs.ErrInvalidArgument)
		}
	}
	for _, id := range ids {
		if id.ContainerID == 0 {
			return id.HostID, nil
		}
	}
	return 0, fmt.Errorf("ID mappings leave out ID 0 of the pod: %w", errdefs.ErrInvalidArgument)
}
