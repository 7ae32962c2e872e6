package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/sirupsen/logrus"

	"github.com/cri-pouch/cri-pouch/internal/failpoint"
)

// Volumes has the folders that outlive containers. Each belongs to a pod, by its UID, and to the containers of one name in
// it, one after the other: DIR/UID/NAME/PATH/fs, where PATH is the folder's path in the container, escaped. All of it is
// safe for concurrent use.
//
// A folder is filled once, under a name that ends in newSuffix, and then renamed: one with its own name is complete. Nobody
// but root gets below DIR, so that set-id programs and devices in it are out of reach of the host's users.
type Volumes struct {
	dir     string
	bytes   int64 // that one container's new volumes may copy from its image, in all
	entries int
	log     *logrus.Entry
	locks   *locker // by pod UID
	usage   *volumeUsage
}

const (
	newSuffix  = "%new"  // of a folder that is being filled; never the end of an escaped path
	goneSuffix = "%gone" // of what is being removed
	volumeFS   = "fs"    // the volume itself, beside its record
	recordFile = "record.json"
)

// NewVolumes says which volumes a container wants.
type NewVolumes struct {
	Pod       string // UID
	Container string // name
	ID        string // of the container, for the record
	ImageID   string
	Rootfs    string   // where its root filesystem is mounted; nothing runs in it yet
	Paths     []string // absolute and clean, those that lie less deep first
	// UIDs and GIDs of the pod's user namespace; empty: none.
	UIDs, GIDs []IDMapping
}

// Volume is one folder for a container.
type Volume struct {
	Path string // in the container, as it was asked for
	Dir  string // on the host
	// UIDs and GIDs say how the owners on disk (ContainerID) have to be shown (HostID) where the pod's user namespace is not
	// the one that the volume was made in; empty: as they are.
	UIDs, GIDs []IDMapping
}

// volumeRecord stands beside a volume.
type volumeRecord struct {
	Path     string      `json:"path"`
	SeededBy string      `json:"seededBy"` // container ID
	Image    string      `json:"image"`
	SeededAt time.Time   `json:"seededAt"`
	UIDs     []IDMapping `json:"uids,omitempty"`
	GIDs     []IDMapping `json:"gids,omitempty"`
}

// openVolumes makes the folder of all volumes.
func openVolumes(dir string, bytes int64, entries int, log *logrus.Entry) (*Volumes, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make folder of volumes: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil { // whatever the umask, and whoever made it
		return nil, fmt.Errorf("restrict folder of volumes: %w", err)
	}
	return &Volumes{dir: dir, bytes: bytes, entries: entries, log: log, locks: newLocker(), usage: newVolumeUsage()}, nil
}

// Paths gives the paths of the volumes that containers of this name in the pod have had so far, sorted.
func (v *Volumes) Paths(_ context.Context, pod, container string) ([]string, error) {
	dir, err := v.folder(pod, container)
	if err != nil {
		return nil, err
	}
	found, err := v.read(dir)
	if err != nil {
		return nil, err
	}
	paths := make([]string, 0, len(found))
	for p := range found {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	return paths, nil
}

// Prepare gives a volume for each of r.Paths. One that is missing is made from what the image has at its path, resolved
// inside the root filesystem: owner, mode, times, extended attributes, hard and symbolic links are kept, and no link is
// followed. A path that the image lacks is an empty folder of root. A path below a volume that was there before, and that
// has something at that place, is part of that one and gets no volume.
//
// Errors: errdefs.ErrInvalidArgument (a path that is no folder in the image), errdefs.ErrResourceExhausted (too much to
// copy). Nothing is left of a call that fails.
func (v *Volumes) Prepare(ctx context.Context, r NewVolumes) (_ []Volume, err error) {
	dir, err := v.folder(r.Pod, r.Container)
	if err != nil {
		return nil, err
	}
	free, err := v.locks.lock(ctx, r.Pod)
	if err != nil {
		return nil, fmt.Errorf("wait for the volumes of pod %s: %w", r.Pod, err)
	}
	defer free()
	found, err := v.read(dir)
	if err != nil {
		return nil, err
	}
	var wanted, missing []string
	for _, p := range r.Paths {
		if _, ok := found[p]; !ok {
			if inside, err := v.inside(dir, found, p); err != nil {
				return nil, err
			} else if inside {
				continue
			}
			missing = append(missing, p)
		}
		wanted = append(wanted, p)
	}
	if len(missing) > 0 {
		made, err := v.make(ctx, dir, r, missing)
		if err != nil {
			return nil, err
		}
		for p, rec := range made {
			found[p] = rec
		}
	}
	return v.give(dir, r, wanted, found)
}

// give describes the volumes for the container.
func (v *Volumes) give(dir string, r NewVolumes, paths []string, found map[string]volumeRecord) ([]Volume, error) {
	out := make([]Volume, 0, len(paths))
	for _, p := range paths {
		vol := Volume{Path: p, Dir: filepath.Join(dir, escapePath(p), volumeFS)}
		rec := found[p]
		if !slices.Equal(rec.UIDs, r.UIDs) || !slices.Equal(rec.GIDs, r.GIDs) {
			var err error
			if vol.UIDs, err = translate(rec.UIDs, r.UIDs); err == nil {
				vol.GIDs, err = translate(rec.GIDs, r.GIDs)
			}
			if err != nil {
				return nil, fmt.Errorf("volume %s of container %s in pod %s: %w", p, r.Container, r.Pod, err)
			}
		}
		out = append(out, vol)
	}
	return out, nil
}

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
	left := budget{bytes: v.bytes, entries: v.entries}
	made := map[string]volumeRecord{}
	for _, p := range missing {
		temp := filepath.Join(dir, escapePath(p)+newSuffix)
		temps = append(temps, temp)
		rec := volumeRecord{Path: p, SeededBy: r.ID, Image: r.ImageID, SeededAt: time.Now().UTC(), UIDs: r.UIDs, GIDs: r.GIDs}
		if err := v.fill(ctx, temp, r, rec, &left); err != nil {
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
			v.log.WithFields(logrus.Fields{"container": r.ID, "volume": rec.Path}).Warnf("left out of the volume, a device or a socket cannot be taken along: %.512q", skipped)
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

// read gives the records of the complete volumes in a container's folder, by path. A record that a repaired disk has lost
// does not lose the volume.
func (v *Volumes) read(dir string) (map[string]volumeRecord, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]volumeRecord{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list volumes: %w", err)
	}
	found := map[string]volumeRecord{}
	for _, e := range entries {
		p, plain := unescapePath(e.Name())
		if isTemporary(e.Name()) || !e.IsDir() {
			continue
		}
		var rec volumeRecord
		b, err := os.ReadFile(filepath.Join(dir, e.Name(), recordFile))
		if err == nil {
			err = json.Unmarshal(b, &rec)
		}
		switch {
		case err == nil && escapePath(rec.Path) == e.Name():
			p = rec.Path
		case plain:
			v.log.WithField("volume", filepath.Join(dir, e.Name())).WithError(err).Warn("the record of a volume cannot be read, its name tells its path")
		default:
			return nil, fmt.Errorf("the record of volume %s cannot be read, and its name is too short to tell its path: mend or remove it: %w", filepath.Join(dir, e.Name()), errors.Join(errdefs.ErrDataLoss, err))
		}
		found[p] = rec
	}
	return found, nil
}
