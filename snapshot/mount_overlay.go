package snapshot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/crash"
)

// manyLayers is the number of layers from which on their paths may not fit into the page that mount(2) takes.
const manyLayers = 16

// mountRoot mounts what the snapshotter says at target. tmp is the folder of short-lived mounts.
//
// Many layers are mounted by paths relative to their common folder. containerd does so too, but its thread stays in that
// folder, and where it is the process's first thread, which cannot end, it holds an idmapped mount there for ever. Nor
// is containerd's way taken for a user namespace, whose helper process it leaves open (see userNamespace).
func mountRoot(mounts []mount.Mount, target, tmp string) error {
	if len(mounts) != 1 || mounts[0].Type != "overlay" {
		return mount.All(mounts, target)
	}
	o := parseOverlay(mounts[0].Options)
	if len(o.lower) < manyLayers && o.uidmap == "" {
		return mount.All(mounts, target)
	}
	return o.mount(target, tmp)
}

// overlayOptions are an overlay mount's options taken apart.
type overlayOptions struct {
	lower          []string
	uidmap, gidmap string
	rest           []string
}

func parseOverlay(options []string) (o overlayOptions) {
	for _, opt := range options {
		key, value, _ := strings.Cut(opt, "=")
		switch key {
		case "lowerdir":
			o.lower = strings.Split(value, ":")
		case "uidmap":
			o.uidmap = value
		case "gidmap":
			o.gidmap = value
		default:
			o.rest = append(o.rest, opt)
		}
	}
	return o
}

func (o overlayOptions) mount(target, tmp string) (err error) {
	base := filepath.Dir(filepath.Dir(o.lower[0])) // of FOLDER/NUMBER/fs
	relative := make([]string, len(o.lower))
	for i, dir := range o.lower {
		rel, ok := strings.CutPrefix(dir, base+"/")
		if !ok {
			return fmt.Errorf("layer %s is not below %s", dir, base)
		}
		relative[i] = rel
	}
	if o.uidmap != "" {
		mapped, undo, err := idmapped(base, tmp, o.uidmap, o.gidmap)
		if err != nil {
			return fmt.Errorf("map the layers' owners: %w", err)
		}
		defer func() { err = errors.Join(err, undo()) }()
		base = mapped
	}
	data := strings.Join(append(o.rest, "lowerdir="+strings.Join(relative, ":")), ",")
	if len(data) >= os.Getpagesize() {
		return fmt.Errorf("the image has too many layers (%d): their names take %d bytes: %w", len(o.lower), len(data), unix.E2BIG)
	}
	return mountFrom(base, target, data)
}

// idmapped mounts dir with the owners of a user namespace below tmp, and gives how to take that away. The overlay keeps
// the layers' mounts by itself.
func idmapped(dir, tmp, uidmap, gidmap string) (_ string, undo func() error, err error) {
	ns, err := userNamespace(uidmap, gidmap)
	if err != nil {
		return "", nil, err
	}
	defer ns.Close()
	at, err := os.MkdirTemp(tmp, "ovl-idmapped")
	if err != nil {
		return "", nil, err
	}
	if err := mount.IDMapMountWithAttrs(dir, at, int(ns.Fd()), unix.MOUNT_ATTR_RDONLY, 0); err != nil {
		return "", nil, errors.Join(err, os.Remove(at))
	}
	return at, func() error {
		// A process that forks now may hold it for a moment; the helper tries again.
		if err := mount.UnmountAll(at, 0); err != nil {
			return fmt.Errorf("unmount %s: %w", at, err)
		}
		return os.Remove(at)
	}, nil
}

// mountFrom mounts an overlay whose options name folders relative to base, on a thread of its own that ends afterwards.
func mountFrom(base, target, data string) error {
	done := make(chan error, 1)
	crash.Go(nil, "mount an overlay", func() {
		runtime.LockOSThread() // never unlocked: the thread has a working folder of its own and must not be used again
		done <- crash.Try(nil, "mount an overlay", func() error {
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return fmt.Errorf("unshare working folder: %w", err)
			}
			if err := unix.Chdir(base); err != nil {
				return fmt.Errorf("enter %s: %w", base, err)
			}
			err := unix.Mount("overlay", target, "overlay", 0, data)
			if err != nil {
				err = fmt.Errorf("mount overlay: %w", err)
			}
			return errors.Join(err, unix.Chdir("/")) // the first thread of a process does not end
		})
	})
	return <-done
}
