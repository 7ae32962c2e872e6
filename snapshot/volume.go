package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/sirupsen/logrus"
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

	mu sync.Mutex
	// fresh has the volumes that only the container that they were made for has got, with its ID.
	fresh map[string]string
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
	return &Volumes{dir: dir, bytes: bytes, entries: entries, log: log, locks: newLocker(), usage: newVolumeUsage(), fresh: map[string]string{}}, nil
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
// copy). What a call that failed has made, or one whose container failed later, Withdraw takes back.
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
	wanted, missing, err := v.sortOut(dir, r.Paths, found)
	if err != nil {
		return nil, err
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

// sortOut says which of the paths get a volume, and for which of them it has to be made.
func (v *Volumes) sortOut(dir string, paths []string, found map[string]volumeRecord) (wanted, missing []string, err error) {
	for _, p := range paths {
		if !path.IsAbs(p) || path.Clean(p) != p || p == "/" || len(p) > maxPathLength {
			return nil, nil, fmt.Errorf("volume path %.200q is not absolute and clean, or is the root: %w", p, errdefs.ErrInvalidArgument)
		}
		if _, ok := found[p]; ok {
			v.shared(filepath.Join(dir, escapePath(p)))
			wanted = append(wanted, p)
			continue
		}
		inside, err := v.inside(dir, found, p)
		if err != nil {
			return nil, nil, err
		}
		if !inside {
			wanted, missing = append(wanted, p), append(missing, p)
		}
	}
	return wanted, missing, nil
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
