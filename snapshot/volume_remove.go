package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cri-pouch/cri-pouch/internal/failpoint"
)

// ErrLeftover says that the volumes are gone, but that files of them are still to be removed: Purge tries again.
var ErrLeftover = errors.New("files are left")

// Remove drops all volumes of a pod, unless keep says that they are still needed: it is asked when nobody can be making any.
// A pod without volumes is no error.
func (v *Volumes) Remove(ctx context.Context, pod string, keep func() bool) error {
	if err := checkElement("pod UID", pod); err != nil {
		return err
	}
	gone, err := v.setAside(ctx, pod, keep)
	if err != nil || gone == "" {
		return err
	}
	failpoint.Hit("volume.dropped")
	if err := removeTree(gone); err != nil {
		return fmt.Errorf("remove volumes of pod %s: %w: %w", pod, ErrLeftover, err)
	}
	return nil
}

// setAside renames the folder of a pod, so that a pod of the same UID begins anew; empty where there is nothing to remove.
func (v *Volumes) setAside(ctx context.Context, pod string, keep func() bool) (string, error) {
	free, err := v.locks.lock(ctx, pod)
	if err != nil {
		return "", fmt.Errorf("wait for the volumes of pod %s: %w", pod, err)
	}
	defer free()
	if keep() {
		return "", nil
	}
	gone := filepath.Join(v.dir, randomHex()+goneSuffix)
	err = os.Rename(filepath.Join(v.dir, pod), gone)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("remove volumes of pod %s: %w", pod, err)
	}
	v.usage.forget(pod)
	v.forgetFresh(filepath.Join(v.dir, pod) + "/")
	return gone, nil
}

// Withdraw removes the volumes that Prepare made for container id, which could not be created after all, unless another
// container has got them since: the next image fills them.
func (v *Volumes) Withdraw(ctx context.Context, pod, id string) error {
	free, err := v.locks.lock(ctx, pod)
	if err != nil {
		return fmt.Errorf("wait for the volumes of pod %s: %w", pod, err)
	}
	defer free()
	for _, dir := range v.madeBy(id) {
		gone := filepath.Join(v.dir, randomHex()+goneSuffix)
		if err := os.Rename(dir, gone); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("take back volume %s: %w", dir, err)
		}
		v.shared(dir)
		if err := removeTree(gone); err != nil {
			return fmt.Errorf("take back volume %s: %w", dir, err)
		}
	}
	return nil
}

// madeBy gives the volumes that no container but id has got.
func (v *Volumes) madeBy(id string) (dirs []string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for dir, by := range v.fresh {
		if by == id {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// note remembers for whom a volume was made.
func (v *Volumes) note(dir, id string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.fresh[dir] = id
}

// shared forgets it: another container has got the volume, or it is gone.
func (v *Volumes) shared(dir string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.fresh, dir)
}

// forgetFresh forgets it for all whose folders begin with prefix.
func (v *Volumes) forgetFresh(prefix string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for dir := range v.fresh {
		if strings.HasPrefix(dir, prefix) {
			delete(v.fresh, dir)
		}
	}
}

// Sweep sets aside the volumes of pods that are not known, and those whose making was cut off. It must not run beside
// Prepare. Purge removes what it set aside.
func (v *Volumes) Sweep(known func(pod string) bool) error {
	pods, err := os.ReadDir(v.dir)
	if err != nil {
		return fmt.Errorf("sweep volumes: %w", err)
	}
	for _, pod := range pods {
		at := filepath.Join(v.dir, pod.Name())
		switch {
		case isTemporary(pod.Name()), !pod.IsDir(), checkElement("pod UID", pod.Name()) != nil: // lost+found, for one
		case !known(pod.Name()):
			v.log.WithField("pod", pod.Name()).Info("removing the volumes of a pod that is gone")
			if err := os.Rename(at, filepath.Join(v.dir, randomHex()+goneSuffix)); err != nil {
				return fmt.Errorf("sweep volumes: %w", err)
			}
		default:
			if err := v.sweepPod(at); err != nil {
				return err
			}
		}
	}
	return nil
}

func (v *Volumes) sweepPod(dir string) error {
	containers, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("sweep volumes: %w", err)
	}
	for _, c := range containers {
		volumes, err := os.ReadDir(filepath.Join(dir, c.Name()))
		if err != nil {
			return fmt.Errorf("sweep volumes: %w", err)
		}
		for _, vol := range volumes {
			if !isTemporary(vol.Name()) {
				continue
			}
			if err := os.Rename(filepath.Join(dir, c.Name(), vol.Name()), filepath.Join(v.dir, randomHex()+goneSuffix)); err != nil {
				return fmt.Errorf("sweep volumes: %w", err)
			}
		}
	}
	return nil
}

// Purge removes what Sweep, or a Remove that was cut off, has set aside.
func (v *Volumes) Purge(ctx context.Context) error {
	entries, err := os.ReadDir(v.dir)
	if err != nil {
		return fmt.Errorf("remove former volumes: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if strings.HasSuffix(e.Name(), goneSuffix) {
			errs = append(errs, removeTree(filepath.Join(v.dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// syncFolder makes the names in a folder durable.
func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = f.Sync()
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("sync folder %s: %w", dir, err)
	}
	return nil
}
