package leak

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"github.com/vishvananda/netlink"
)

// mounts lists mounts by their mount point; a pinned namespace is one of type nsfs.
func (s Scope) mounts(found inventory) error {
	if len(s.MountDirs) == 0 {
		return nil
	}
	mounts, err := mountinfo.GetMounts(nil)
	if err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}
	for _, m := range mounts {
		if !slices.ContainsFunc(s.MountDirs, func(dir string) bool { return below(m.Mountpoint, dir) }) {
			continue
		}
		if m.FSType == "nsfs" {
			found.add("pinned namespace", fmt.Sprintf("%s (%s)", m.Mountpoint, m.Root))
		} else {
			found.add("mount", fmt.Sprintf("%s (%s)", m.Mountpoint, m.FSType))
		}
	}
	return nil
}

// foreignCgroup belongs to who runs this machine.
const foreignCgroup = "process_api"

// cgroups lists the folders of all hierarchies.
func (s Scope) cgroups(found inventory) error {
	if s.Cgroup == "" {
		return nil
	}
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return fmt.Errorf("list cgroup hierarchies: %w", err)
	}
	for _, m := range mounts {
		err := filepath.WalkDir(m.Mountpoint, func(path string, e fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // it went in this moment
			}
			if err != nil || !e.IsDir() || path == m.Mountpoint {
				return err
			}
			if e.Name() == foreignCgroup {
				return fs.SkipDir
			}
			if s.ownCgroup(strings.TrimPrefix(path, m.Mountpoint)) {
				found.add("cgroup", path)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("list cgroups of %s: %w", m.Mountpoint, err)
		}
	}
	return nil
}

func (s Scope) ownCgroup(path string) bool {
	return s.Cgroup == "/" || slices.Contains(strings.Split(path, "/"), s.Cgroup)
}

// links lists network links of this network namespace.
func (s Scope) links(found inventory) error {
	if s.Link == nil {
		return nil
	}
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return fmt.Errorf("list network links: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	for _, l := range links {
		if a := l.Attrs(); s.Link(a.Name, names[a.MasterIndex]) {
			found.add("network link", fmt.Sprintf("%s (%s)", a.Name, l.Type()))
		}
	}
	return nil
}
