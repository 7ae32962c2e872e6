package network

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/mountpoint"
)

// shmSize is the size of a pod's /dev/shm in bytes, what containers have had everywhere.
const shmSize = 64 << 20

// Shm is the host folder of the pod's /dev/shm: a tmpfs of its own, made by Pin and removed by Unpin, or the node's with
// the node's IPC namespace.
func (m *Manager) Shm(pod Pod) string {
	if pod.HostIPC {
		return "/dev/shm"
	}
	return m.shmDir(pod.ID)
}

func (m *Manager) shmDir(id string) string { return filepath.Join(m.o.sandboxesDir(), id, "shm") }

// mountShm mounts the tmpfs; in a user namespace it belongs to the pod's root.
func (m *Manager) mountShm(pod Pod) error {
	dir := m.shmDir(pod.ID)
	err := m.makeFolder(pod.ID)
	if err == nil {
		err = os.MkdirAll(dir, 0o711)
	}
	if err != nil {
		return fmt.Errorf("make /dev/shm of sandbox %s: %w", pod.ID, err)
	}
	uid, gid, err := owner(pod)
	if err != nil {
		return err
	}
	options := fmt.Sprintf("mode=1777,size=%d,uid=%d,gid=%d", shmSize, uid, gid)
	if err := unix.Mount("shm", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("mount /dev/shm of sandbox %s: %w", pod.ID, err)
	}
	return nil
}

// unmountShm takes the tmpfs away with what is in it. The folder is removed only when it is empty: were it ever still a
// mount, nothing in it would be touched.
func (m *Manager) unmountShm(id string) error {
	dir := m.shmDir(id)
	if err := errors.Join(mountpoint.Clear(dir), mountpoint.Writable(filepath.Dir(dir))); err != nil {
		return err
	}
	if err := ignoreAbsent(os.Remove(dir)); err != nil {
		return err
	}
	return m.dropFolder(id)
}

// owner gives the host's IDs of the pod's root.
func owner(pod Pod) (uid, gid uint32, err error) {
	if len(pod.UIDs) == 0 {
		return 0, 0, nil
	}
	if uid, err = rootOf(pod.UIDs); err != nil {
		return 0, 0, err
	}
	gid, err = rootOf(pod.GIDs)
	return uid, gid, err
}
