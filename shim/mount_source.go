package shim

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"
)

// maxReaching bounds how many launches may wait for file systems at once, with a thread each: Go's runtime ends a program at 10,000
// threads. A pod alone cannot get there: one that waits keeps its pod's slot.
const maxReaching = 2048

// maxInterrupted bounds the calls that a file system interrupts again and again.
const maxInterrupted = 100

// reach runs fn, which makes system calls on a path of somebody else's choice: they take as long as the path's file system
// does, which may be for ever. Where the launch is given up meanwhile, its error names the path, and it goes no further.
func (l *launch) reach(path string, fn func() error) error {
	defer l.s.reaching.Add(-1)
	if l.s.reaching.Add(1) > maxReaching {
		return fmt.Errorf("cannot look at %s: %d launches wait for file systems that do not answer, end their pods: %w", path, maxReaching, errdefs.ErrResourceExhausted)
	}
	if err := l.waitFor(path); err != nil {
		return err
	}
	err := fn()
	return errors.Join(err, l.waitFor(""))
}

// waitFor notes what the launch waits for, "" for nothing, unless it was given up.
func (l *launch) waitFor(path string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.abandoned {
		return errAbandoned
	}
	l.waitsFor = path
	return nil
}

// createObject makes libcontainer's object of the container, which looks at the root filesystem.
func (c *container) createObject(l *launch, config *configs.Config) (lc *libcontainer.Container, err error) {
	err = l.reach(config.Rootfs, func() error {
		lc, err = libcontainer.Create(c.s.dir.Libcontainer(), c.id, config)
		return err
	})
	return lc, err
}

// startInit starts the container's init with the sources of its bind mounts at hand. libcontainer would open those that are
// idmapped, and those that the init cannot look at, in a routine of its own with a locked thread. Where the file system does
// not answer, it gives up after a minute, and thread and routine stay for ever, even when the file system answers at last.
// On the thread of a launch they are counted among the launches of the pod, and end when the file system answers or dies.
// For libcontainer the sources are mounts in a folder of the shim's: opening those asks no file system.
func (c *container) startInit(l *launch, config *configs.Config, lp *libcontainer.Process) error {
	sources, err := openSources(l, config.Mounts)
	if err != nil {
		return err
	}
	defer sources.close()
	if sources.areLocal() { // the usual case: a mount namespace more would cost as much as the host has mounts
		return startFirst(c.s.dir.Mounts(), c.lc, lp, func() error { return nil })
	}
	if err := sources.clone(); err != nil {
		return err
	}
	leave, err := sources.attach(c.s.dir.Mounts())
	if leave == nil {
		return err
	}
	if err != nil {
		l.stranded = leave() != nil
		return err
	}
	given := config.Mounts
	config.Mounts = sources.replaceIn(given)
	defer func() { config.Mounts = given }()
	err = startFirst(c.s.dir.Mounts(), c.lc, lp, leave)
	left := leave()
	l.stranded = left != nil
	return sources.name(errors.Join(err, left))
}

// localFilesystems are those that answer whoever attacks: everything is in this kernel and on disks of this machine.
var localFilesystems = map[int64]bool{
	unix.EXT4_SUPER_MAGIC: true, unix.XFS_SUPER_MAGIC: true, unix.BTRFS_SUPER_MAGIC: true, unix.F2FS_SUPER_MAGIC: true,
	unix.TMPFS_MAGIC: true, unix.RAMFS_MAGIC: true, unix.OVERLAYFS_SUPER_MAGIC: true, unix.EROFS_SUPER_MAGIC_V1: true,
	unix.SQUASHFS_MAGIC: true, unix.PROC_SUPER_MAGIC: true, unix.SYSFS_MAGIC: true, unix.CGROUP_SUPER_MAGIC: true,
	unix.CGROUP2_SUPER_MAGIC: true, unix.DEVPTS_SUPER_MAGIC: true, unix.NSFS_MAGIC: true,
}

// mountSource is a detached copy of what is mounted at the source of a bind mount, idmapped where that is asked for.
type mountSource struct {
	mount *configs.Mount
	place *os.File // where the source is, without a file being open
	local bool     // it is on a local file system
	tree  *os.File
	isDir bool
	path  string // where it is attached
}

type mountSources []*mountSource

// openSources opens the sources of all bind mounts in order.
func openSources(l *launch, mounts []*configs.Mount) (sources mountSources, err error) {
	defer func() {
		if err != nil {
			sources.close()
		}
	}()
	for _, m := range mounts {
		if !m.IsBind() || m.Flags&unix.MS_REMOUNT != 0 || isCgroup(m.Source) {
			continue
		}
		s := &mountSource{mount: m}
		sources = append(sources, s)
		if err := l.reach(m.Source, s.open); err != nil {
			return sources, fmt.Errorf("mount %q at %q: %w", m.Source, m.Destination, err)
		}
	}
	return sources, nil
}

// isCgroup reports whether a path is one of the kernel's, of which the container's own are not there yet: an init that manages
// cgroups is given some, and libcontainer makes them after the fork.
func isCgroup(path string) bool { return strings.HasPrefix(filepath.Clean(path), cgroupRoot+"/") }

func (ss mountSources) areLocal() bool {
	return !slices.ContainsFunc(ss, func(s *mountSource) bool { return !s.local })
}

// clone makes the copies, which asks no file system.
func (ss mountSources) clone() error {
	users := userNamespaces{}
	defer users.close()
	for _, s := range ss {
		if err := s.clone(users); err != nil {
			return fmt.Errorf("mount %q at %q: %w", s.mount.Source, s.mount.Destination, err)
		}
	}
	return nil
}

// open finds the source. One whose file system does not tell what it is counts as one that is not local.
func (s *mountSource) open() error {
	fd, err := openTree(unix.AT_FDCWD, s.mount.Source, unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return &os.PathError{Op: "open_tree", Path: s.mount.Source, Err: err}
	}
	s.place = os.NewFile(uintptr(fd), s.mount.Source)
	var st unix.Statfs_t
	s.local = unix.Fstatfs(fd, &st) == nil && localFilesystems[int64(st.Type)]
	return nil
}

func (s *mountSource) clone(users userNamespaces) error {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_EMPTY_PATH)
	if s.mount.Flags&unix.MS_REC != 0 {
		flags |= unix.AT_RECURSIVE
	}
	fd, err := openTree(int(s.place.Fd()), "", flags)
	if err != nil {
		return &os.PathError{Op: "open_tree", Path: s.mount.Source, Err: err}
	}
	s.tree = os.NewFile(uintptr(fd), s.mount.Source)
	// What it is must not be asked of the file system, which may refuse to tell.
	dir, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	switch {
	case err == nil:
		_ = unix.Close(dir)
		s.isDir = true
	case !errors.Is(err, unix.ENOTDIR):
		return &os.PathError{Op: "open", Path: s.mount.Source, Err: err}
	}
	return s.mapIDs(users)
}

func openTree(dir int, path string, flags uint) (fd int, err error) {
	for range maxInterrupted {
		if fd, err = unix.OpenTree(dir, path, flags); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	return fd, err
}

// mapIDs makes the mount idmapped. Mounts below it are only where the mount asks for that ("ridmap").
func (s *mountSource) mapIDs(users userNamespaces) error {
	m := s.mount.IDMapping
	if m == nil {
		return nil
	}
	user, err := users.of(m)
	if err != nil {
		return err
	}
	flags := uint(unix.AT_EMPTY_PATH)
	if m.Recursive {
		flags |= unix.AT_RECURSIVE
	}
	err = unix.MountSetattr(int(s.tree.Fd()), "", flags, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(user.Fd())})
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("failed to set MOUNT_ATTR_IDMAP on %s: %w (maybe the filesystem used doesn't support idmap mounts on this kernel?)", s.mount.Source, err)
	}
	if err != nil {
		return fmt.Errorf("failed to set MOUNT_ATTR_IDMAP on %s: %w", s.mount.Source, err)
	}
	return nil
}

func (ss mountSources) close() {
	for _, s := range ss {
		_ = s.place.Close() // nil is an error that does not matter
		_ = s.tree.Close()
	}
}

// replaceIn gives the mounts with what is attached for their sources.
func (ss mountSources) replaceIn(mounts []*configs.Mount) []*configs.Mount {
	replaced := make([]*configs.Mount, len(mounts))
	for i, m := range mounts {
		replaced[i] = m
		if len(ss) > 0 && ss[0].mount == m {
			plain := *m
			plain.Source, plain.IDMapping = ss[0].path, nil
			replaced[i], ss = &plain, ss[1:]
		}
	}
	return replaced
}

// name gives an error of libcontainer's with the sources as they were asked for.
func (ss mountSources) name(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	for _, s := range ss {
		text = strings.ReplaceAll(text, s.path, s.mount.Source)
	}
	return &namedError{text: text, err: err}
}

type namedError struct {
	text string
	err  error
}

func (e *namedError) Error() string { return e.text }

func (e *namedError) Unwrap() error { return e.err }
