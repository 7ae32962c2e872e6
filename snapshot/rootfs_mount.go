package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/identifiers"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/failpoint"
)

// mountName is the mount point within a container's own folder, which keeps the host's users off the image's set-id
// programs and devices.
const mountName = "fs"

// busyWait is how long a busy mount is tried again: a dying process, or a reader of /proc, may hold it for a moment.
const busyWait = 5 * time.Second

// Mount mounts the root filesystem of the container and gives the path; a second Mount gives the same path.
// errdefs.ErrNotFound where there is no such container.
func (s *Rootfs) Mount(ctx context.Context, id string) (string, error) {
	target, free, err := s.claim(ctx, id)
	if err != nil {
		return "", err
	}
	defer free()
	if mounted, err := isMounted(target); err != nil || mounted {
		return target, err
	}
	ctx = s.eng.With(ctx)
	mounts, err := s.eng.Snapshots.Mounts(ctx, id)
	if err != nil {
		return "", fmt.Errorf("mount root filesystem of container %s: %w", id, err)
	}
	info, err := s.eng.Snapshots.Stat(ctx, id)
	if err != nil {
		return "", fmt.Errorf("mount root filesystem of container %s: %w", id, err)
	}
	if err := makeMountPoint(target, info); err != nil {
		return "", fmt.Errorf("make mount point of container %s: %w", id, err)
	}
	if err := mountRoot(mounts, target, s.eng.TempMounts()); err != nil {
		return "", errors.Join(fmt.Errorf("mount root filesystem of container %s: %w", id, err), removeMountPoint(target))
	}
	failpoint.Hit("rootfs.mounted")
	return target, nil
}

// claim checks the ID, which becomes part of a path, and locks it.
func (s *Rootfs) claim(ctx context.Context, id string) (target string, free func(), err error) {
	if err := identifiers.Validate(id); err != nil {
		return "", nil, fmt.Errorf("container ID %.100q: %w", id, err)
	}
	if free, err = s.mounts.lock(ctx, id); err != nil {
		return "", nil, fmt.Errorf("wait for the root filesystem of container %s: %w", id, err)
	}
	return filepath.Join(s.dir, id, mountName), free, nil
}

// makeMountPoint makes the container's folder, open to its root alone: the host's, or that of its user namespace.
func makeMountPoint(target string, info snapshots.Info) error {
	own := filepath.Dir(target)
	if err := os.Mkdir(own, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if uid, ok := parseRoot(info.Labels[snapshots.LabelSnapshotUIDMapping]); ok {
		gid, _ := parseRoot(info.Labels[snapshots.LabelSnapshotGIDMapping])
		if err := os.Lchown(own, uid, gid); err != nil {
			return err
		}
	}
	if err := os.Mkdir(target, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

func removeMountPoint(target string) error {
	for _, dir := range []string{target, filepath.Dir(target)} {
		if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove mount point: %w", err)
		}
	}
	return nil
}

func isMounted(target string) (bool, error) {
	mounted, err := mountinfo.Mounted(target)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look whether %s is mounted: %w", target, err)
	}
	return mounted, nil
}

// Unmount takes the mount away; an absent one is no error. A busy one is tried again for some seconds and then
// errdefs.ErrFailedPrecondition with what lies on it: it is never detached lazily, which would only hide who holds it.
func (s *Rootfs) Unmount(ctx context.Context, id string) error {
	target, free, err := s.claim(ctx, id)
	if err != nil {
		return err
	}
	defer free()
	if err := unmountAll(ctx, target); err != nil {
		return fmt.Errorf("unmount root filesystem of container %s: %w", id, err)
	}
	failpoint.Hit("rootfs.unmounted")
	return removeMountPoint(target)
}

func unmountAll(ctx context.Context, target string) error {
	deadline := time.Now().Add(busyWait)
	for wait := time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
		err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW)
		switch {
		case err == nil:
			wait = time.Millisecond
			continue // one mount less; there may be another below it
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return nil // not mounted (any more)
		case !errors.Is(err, unix.EBUSY):
			return err
		case time.Now().After(deadline):
			return fmt.Errorf("it is in use (%s): end what uses it: %w: %w", holders(target), errdefs.ErrFailedPrecondition, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("it is in use (%s): %w", holders(target), context.Cause(ctx))
		case <-time.After(wait):
		}
	}
}

// holders names what keeps a mount busy, as far as it can be seen cheaply: mounts on top of it.
func holders(target string) string {
	on, err := mountinfo.GetMounts(mountinfo.PrefixFilter(target))
	var names []string
	for _, m := range on {
		if m.Mountpoint != target {
			names = append(names, m.Mountpoint)
		}
	}
	if err != nil || len(names) == 0 {
		return "by a process"
	}
	return "mounts " + strings.Join(names, ", ")
}
