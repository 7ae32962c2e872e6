package shim

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"
)

// attach makes a mount namespace, a copy of the host's, and mounts the sources there, below dir. The calling thread, one of a
// launch, is in it until leave is called, and an init that is forked meanwhile begins with it. It ends by itself when
// nobody is in it any more: nothing is ever mounted on the host, so that nothing has to be unmounted or can be left there,
// whoever dies, and nobody who removes the shim's folder can get into what pods have mounted. leave can be repeated; it is nil
// where the thread has not left the host's namespace.
func (ss mountSources) attach(dir string) (leave func() error, err error) {
	if len(ss) == 0 {
		return func() error { return nil }, nil
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return nil, fmt.Errorf("find the folder of mount sources: %w", err)
	}
	host, err := os.Open("/proc/thread-self/ns/mnt")
	if err != nil {
		return nil, fmt.Errorf("open the mount namespace: %w", err)
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		_ = host.Close()
		return nil, fmt.Errorf("make a mount namespace: %w", err)
	}
	var left error
	leave = func() error {
		if host == nil {
			return left
		}
		if err := unix.Setns(int(host.Fd()), unix.CLONE_NEWNS); err != nil {
			left = fmt.Errorf("return to the host's mount namespace: %w", err)
		}
		_ = host.Close()
		host = nil
		return left
	}
	return leave, ss.mount(dir)
}

// mount makes a place for each source below dir and moves it there. What was mounted from the same place elsewhere is told of mounts
// below the source still, as it would be of mounts in the container.
func (ss mountSources) mount(dir string) error {
	if err := severFrom(dir); err != nil {
		return fmt.Errorf("keep mounts below %s from the host: %w", dir, err)
	}
	data := fmt.Sprintf("mode=0711,size=1m,nr_inodes=%d", len(ss)+16)
	if err := unix.Mount("mounts", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, data); err != nil {
		return fmt.Errorf("mount a tmpfs at %s: %w", dir, err)
	}
	for i, s := range ss {
		s.path = filepath.Join(dir, fmt.Sprintf("%06d", i)) // none is the beginning of another
		if err := s.attach(); err != nil {
			return fmt.Errorf("mount %q at %q: %w", s.mount.Source, s.mount.Destination, err)
		}
	}
	return nil
}

// severFrom makes the mount that a path lies in private, so that what is mounted at the path is seen in this namespace only.
func severFrom(path string) error {
	for ; ; path = filepath.Dir(path) {
		err := unix.Mount("", path, "", unix.MS_PRIVATE, "")
		if !errors.Is(err, unix.EINVAL) || path == "/" { // EINVAL: nothing is mounted right there
			return err
		}
	}
}

func (s *mountSource) attach() error {
	if s.isDir {
		if err := unix.Mkdir(s.path, 0o700); err != nil {
			return &os.PathError{Op: "mkdir", Path: s.path, Err: err}
		}
	} else {
		fd, err := unix.Open(s.path, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return &os.PathError{Op: "create", Path: s.path, Err: err}
		}
		_ = unix.Close(fd)
	}
	if err := unix.MoveMount(int(s.tree.Fd()), "", unix.AT_FDCWD, s.path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return os.NewSyscallError("move_mount", err)
	}
	_ = s.tree.Close()
	return nil
}

// userNamespaces are the ones whose ID mappings the mounts of one container have.
type userNamespaces map[string]*os.File

// of gives a user namespace with the mapping, which belongs to u.
func (u userNamespaces) of(m *configs.MountIDMapping) (*os.File, error) {
	key := fmt.Sprint(m.UserNSPath, m.UIDMappings, m.GIDMappings)
	if u[key] != nil {
		return u[key], nil
	}
	var f *os.File
	var err error
	if m.UserNSPath != "" {
		f, err = os.Open(m.UserNSPath)
	} else {
		f, err = newUserNamespace(m.UIDMappings, m.GIDMappings)
	}
	if err != nil {
		return nil, fmt.Errorf("user namespace of the ID mapping: %w", err)
	}
	u[key] = f
	return f, nil
}

func (u userNamespaces) close() {
	for _, f := range u {
		_ = f.Close()
	}
}

// newUserNamespace makes a user namespace, which needs a process to be made with it. That one is traced, so that it stops at
// its execve and never runs; the calling thread must be locked.
func newUserNamespace(uids, gids []configs.IDMap) (*os.File, error) {
	p, err := os.StartProcess("/proc/self/exe", []string{"user-namespace"}, &os.ProcAttr{Dir: "/", Env: []string{}, Sys: &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER, UidMappings: sysMappings(uids), GidMappings: sysMappings(gids), Ptrace: true,
	}})
	if err != nil {
		return nil, fmt.Errorf("make a process in it: %w", err)
	}
	defer func() {
		_ = p.Kill()
		_, _ = p.Wait()
	}()
	return os.Open(fmt.Sprintf("/proc/%d/ns/user", p.Pid))
}

func sysMappings(maps []configs.IDMap) (mappings []syscall.SysProcIDMap) {
	for _, m := range maps {
		mappings = append(mappings, syscall.SysProcIDMap{ContainerID: int(m.ContainerID), HostID: int(m.HostID), Size: int(m.Size)})
	}
	return mappings
}
