package cgrouptree

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
)

// Mounts says where the hierarchies are mounted: by controller on v1, under "" on v2.
type Mounts map[string]string

// named is the prefix of a hierarchy without controllers.
const named = "name="

// FindMounts looks for the hierarchies of the node. On a hybrid host, whose v2 hierarchy has no controllers, it gives v1's
// only. NotFound: there is none.
func FindMounts() (Mounts, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return nil, fmt.Errorf("find the cgroup hierarchies: %w", err)
	}
	return mountsOf(mounts)
}

func mountsOf(mounts []*mountinfo.Info) (Mounts, error) {
	all, controllers, unified := Mounts{}, 0, ""
	for _, m := range mounts {
		switch {
		case m.FSType == "cgroup2" && unified == "":
			unified = m.Mountpoint
		case m.FSType == "cgroup":
			for option := range strings.SplitSeq(m.VFSOptions, ",") {
				controller := slices.Contains(controllersV1, option)
				// The first one is the node's own, later ones are containers'.
				if all[option] != "" || !controller && !strings.HasPrefix(option, named) {
					continue
				}
				all[option] = m.Mountpoint
				if controller {
					controllers++
				}
			}
		}
	}
	switch {
	case controllers > 0:
		return all, nil
	case unified != "":
		return Mounts{"": unified}, nil
	}
	return nil, fmt.Errorf("no cgroup hierarchy with controllers is mounted: %w", errdefs.ErrNotFound)
}

// Unified is the node's cgroup v2 hierarchy, whether there are controllers of v1 besides or not.
type Unified struct {
	Mountpoint string   // empty: there is none that containers are put into
	Flags      []string // of the hierarchy as a whole ("nsdelegate")
}

// unifiedPlaces are where libcontainer looks for v2's hierarchy: alone, and beside those of v1.
var unifiedPlaces = []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"}

// FindUnified looks for the hierarchy of cgroup v2.
func FindUnified() (Unified, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup2"))
	if err != nil {
		return Unified{}, fmt.Errorf("find the hierarchy of cgroup v2: %w", err)
	}
	return unifiedOf(mounts), nil
}

func unifiedOf(mounts []*mountinfo.Info) Unified {
	for _, m := range mounts {
		if m.FSType != "cgroup2" || !slices.Contains(unifiedPlaces, m.Mountpoint) {
			continue
		}
		flags := slices.DeleteFunc(strings.Split(m.VFSOptions, ","), func(o string) bool { return o == "rw" || o == "ro" || o == "" })
		return Unified{Mountpoint: m.Mountpoint, Flags: flags}
	}
	return Unified{}
}

// controllersV1 are those whose figures are read; others of a mount's options are not looked at.
var controllersV1 = []string{"cpu", "cpuacct", "memory", "pids", "blkio", "devices", "freezer"}

// Tree gives the tree of the cgroup at path, which is seen from the root of every hierarchy. The root itself is refused.
func (m Mounts) Tree(path string) (Tree, error) {
	path = filepath.Clean("/" + path)
	if path == "/" {
		return nil, fmt.Errorf("the root of the cgroups belongs to the node: %w", errdefs.ErrInvalidArgument)
	}
	t := make(Tree, len(m))
	for controller, mountpoint := range m {
		t[controller] = filepath.Join(mountpoint, path)
	}
	return t, nil
}
