package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// measureShare is how many times longer a measurement is good than it took: a huge volume is not walked all the time.
const measureShare = 20

// volumeUsage keeps what volumes were measured to use, by pod and container.
type volumeUsage struct {
	mu   sync.Mutex
	m    map[[2]string]measured
	turn *locker // one measurement of the same volumes at a time
}

type measured struct {
	use  FSUsage
	good time.Duration
}

func newVolumeUsage() *volumeUsage {
	return &volumeUsage{m: map[[2]string]measured{}, turn: newLocker()}
}

func (u *volumeUsage) drop(pod, container string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.m, [2]string{pod, container})
}

func (u *volumeUsage) forget(pod string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for k := range u.m {
		if k[0] == pod {
			delete(u.m, k)
		}
	}
}

func (u *volumeUsage) get(key [2]string) (FSUsage, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	m, ok := u.m[key]
	return m.use, ok && time.Since(m.use.Time) < m.good
}

// Usage is what the volumes of containers of this name in the pod take on disk, all together. It is at most 10 seconds old,
// or 20 times as old as it takes to measure. None: zero.
func (v *Volumes) Usage(ctx context.Context, pod, container string) (FSUsage, error) {
	dir, err := v.folder(pod, container)
	if err != nil {
		return FSUsage{}, err
	}
	key := [2]string{pod, container}
	if use, ok := v.usage.get(key); ok {
		return use, nil
	}
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return FSUsage{Mountpoint: v.dir, Time: time.Now()}, nil // as most containers
	}
	free, err := v.usage.turn.lock(ctx, pod+"/"+container)
	if err != nil {
		return FSUsage{}, fmt.Errorf("wait for the measurement of volumes of container %s in pod %s: %w", container, pod, err)
	}
	defer free()
	if use, ok := v.usage.get(key); ok {
		return use, nil
	}
	begun := time.Now()
	use, err := v.measure(ctx, dir)
	if err != nil {
		return FSUsage{}, fmt.Errorf("measure volumes of container %s in pod %s: %w", container, pod, err)
	}
	v.usage.mu.Lock()
	defer v.usage.mu.Unlock()
	v.usage.m[key] = measured{use, max(usageAge, measureShare*time.Since(begun))}
	return use, nil
}

// measure walks the volumes of one container.
func (v *Volumes) measure(ctx context.Context, dir string) (FSUsage, error) {
	volumes, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return FSUsage{}, err
	}
	m := newMeter(ctx)
	for _, e := range volumes {
		if err := m.tree(filepath.Join(dir, e.Name(), volumeFS)); err != nil {
			return FSUsage{}, err
		}
	}
	return FSUsage{Mountpoint: v.dir, Bytes: m.bytes, Inodes: m.inodes, Time: time.Now()}, nil
}
