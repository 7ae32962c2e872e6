package snapshot

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/sirupsen/logrus"

	"github.com/cri-pouch/cri-pouch/internal/failpoint"
)

// make fills the missing volumes and then gives them their names.
func (v *Volumes) make(ctx context.Context, dir string, r NewVolumes, missing []string) (_ map[string]volumeRecord, err error) {
	var temps []string
	defer func() {
		if err == nil {
			return
		}
		for _, t := range temps {
			if rmErr := removeTree(t); rmErr != nil {
				v.log.WithError(rmErr).Warn("cannot remove a volume whose making failed, the next try or start does")
			}
		}
	}()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make folder of volumes: %w", err)
	}
	defer func() {
		if isDiskFull(err) {
			err = fmt.Errorf("the disk of the volumes is full, free some space: %w: %w", errdefs.ErrResourceExhausted, err)
		}
	}()
	left := newBudget(v.bytes, v.entries)
	made := map[string]volumeRecord{}
	for _, p := range missing {
		temp := filepath.Join(dir, escapePath(p)+newSuffix)
		temps = append(temps, temp)
		rec := volumeRecord{Path: p, SeededBy: r.ID, Image: r.ImageID, SeededAt: time.Now().UTC(), UIDs: r.UIDs, GIDs: r.GIDs}
		if err := v.fill(ctx, temp, r, rec, left); err != nil {
			return nil, fmt.Errorf("make volume %s of container %s in pod %s: %w", p, r.Container, r.Pod, err)
		}
		made[p] = rec
	}
	failpoint.Hit("volume.filled")
	if err := syncFilesystem(dir); err != nil {
		return nil, fmt.Errorf("write out volumes of pod %s: %w", r.Pod, err)
	}
	for i, p := range missing {
		if err := os.Rename(temps[i], filepath.Join(dir, escapePath(p))); err != nil {
			return nil, fmt.Errorf("name volume %s of container %s in pod %s: %w", p, r.Container, r.Pod, err)
		}
		v.note(filepath.Join(dir, escapePath(p)), r.ID)
		failpoint.Hit("volume.named")
	}
	// What the container writes and syncs later is worth nothing without the names above it.
	for _, d := range []string{dir, filepath.Dir(dir), v.dir} {
		if err := syncFolder(d); err != nil {
			return nil, err
		}
	}
	v.usage.drop(r.Pod, r.Container)
	return made, nil
}

// fill makes one volume in a temporary folder, whatever a former try left there.
func (v *Volumes) fill(ctx context.Context, temp string, r NewVolumes, rec volumeRecord, left *budget) error {
	if err := removeTree(temp); err != nil {
		return fmt.Errorf("remove what a former try left: %w", err)
	}
	to := filepath.Join(temp, volumeFS)
	for _, d := range []string{temp, to} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return err
		}
	}
	b, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("encode its record: %w", err)
	}
	if err := os.WriteFile(filepath.Join(temp, recordFile), b, 0o600); err != nil {
		return err
	}
	place, from, err := openPlace(r.Rootfs, rec.Path)
	if err != nil {
		return err
	}
	defer closeIfOpen(from)
	switch place.Kind {
	case PlaceMissing:
		return v.empty(to, r)
	case PlaceFolder:
		skipped, err := seed(ctx, from, to, left)
		if len(skipped) > 0 {
			v.log.WithFields(logrus.Fields{"container": r.ID, "volume": rec.Path}).Warnf("left out of the volume: devices, sockets, files of owners that the pod's user namespace does not know: %.512q", skipped)
		}
		return err
	}
	return fmt.Errorf("it is no folder in the image: name the folder that it lies in: %w", errdefs.ErrInvalidArgument)
}

// empty makes the folder one of the namespace's root that all may read.
func (v *Volumes) empty(dir string, r NewVolumes) error {
	var uid, gid uint32
	var err error
	if len(r.UIDs) > 0 || len(r.GIDs) > 0 {
		if uid, err = rootOf(r.UIDs); err != nil {
			return err
		}
		if gid, err = rootOf(r.GIDs); err != nil {
			return err
		}
	}
	if err := os.Lchown(dir, int(uid), int(gid)); err != nil {
		return err
	}
	return os.Chmod(dir, 0o755)
}
