package snapshot

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/snapshots"
)

// usageAge is how old a measured usage may be: a writable layer is measured by walking it.
const usageAge = 10 * time.Second

// usageCache keeps measured usages.
type usageCache struct {
	mu     sync.Mutex
	layers map[string]measured // of writable layers, by container ID
	images FSUsage             // zero: unknown
}

func newUsageCache() *usageCache { return &usageCache{layers: map[string]measured{}} }

// forget makes the images be measured anew.
func (u *usageCache) forget() {
	u.mu.Lock()
	u.images = FSUsage{}
	u.mu.Unlock()
}

func (u *usageCache) drop(id string) {
	u.mu.Lock()
	delete(u.layers, id)
	u.mu.Unlock()
}

func (u *usageCache) layer(id string) (FSUsage, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	m, ok := u.layers[id]
	return m.use, ok && time.Since(m.use.Time) < m.good
}

// Usage is what the container wrote into its root filesystem. It is at most 10 seconds old, or 20 times as old as it takes to
// measure. errdefs.ErrNotFound.
func (s *Rootfs) Usage(ctx context.Context, id string) (FSUsage, error) {
	if f, ok := s.usage.layer(id); ok {
		return f, nil
	}
	// The snapshotter measures too, but by paths: it gives up where they become too long.
	upper, _, err := s.eng.UpperDir(s.eng.With(ctx), id)
	m, begun := newMeter(ctx), time.Now()
	if err == nil {
		err = m.tree(upper)
	}
	if err != nil {
		return FSUsage{}, fmt.Errorf("measure root filesystem of container %s: %w", id, err)
	}
	f := FSUsage{Mountpoint: s.eng.Root(), Bytes: m.bytes, Inodes: m.inodes, Time: time.Now()}
	s.usage.mu.Lock()
	s.usage.layers[id] = measured{f, max(usageAge, measureShare*time.Since(begun))}
	s.usage.mu.Unlock()
	return f, nil
}

// FsInfo is the use of the images' filesystem by images: what they brought and what that unpacks to. It is measured
// when the images have changed, from the databases, without walking files.
func (s *Store) FsInfo(ctx context.Context) (FSUsage, error) {
	s.usage.mu.Lock()
	f := s.usage.images
	s.usage.mu.Unlock()
	if !f.Time.IsZero() && time.Since(f.Time) < usageAge {
		return f, nil
	}
	ctx = s.eng.With(ctx)
	f = FSUsage{Mountpoint: s.eng.Root(), Time: time.Now()}
	var committed []string
	err := s.eng.Snapshots.Walk(ctx, func(_ context.Context, i snapshots.Info) error {
		if i.Kind == snapshots.KindCommitted {
			committed = append(committed, i.Name)
		}
		return nil
	})
	for _, name := range committed {
		u, usageErr := s.eng.Snapshots.Usage(ctx, name)
		if usageErr != nil {
			continue // removed meanwhile
		}
		f.Bytes += uint64(u.Size)
		f.Inodes += uint64(u.Inodes)
	}
	if err == nil {
		err = s.eng.Content.Walk(ctx, func(i content.Info) error {
			f.Bytes += uint64(i.Size)
			f.Inodes++
			return nil
		})
	}
	if err != nil {
		return FSUsage{}, fmt.Errorf("measure images below %s: %w", s.eng.Root(), err)
	}
	s.usage.mu.Lock()
	s.usage.images = f
	s.usage.mu.Unlock()
	return f, nil
}
