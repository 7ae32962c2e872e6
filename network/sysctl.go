package network

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// sysctl is one checked setting of a pod.
type sysctl struct {
	name  string // as the pod gave it
	path  string // below /proc/sys
	value string
	ipc   bool // of the IPC namespace
}

const (
	sysctlsMax     = 256
	sysctlValueMax = 256
)

var (
	// sysctlParts are components of a path: none can be "", "." or "..".
	sysctlParts = regexp.MustCompile(`^[a-zA-Z0-9_-][a-zA-Z0-9_.:@-]*$`)
	// sysctlValues has what real values are made of. Lines, NUL, and '+' (which joined settings in CVE-2022-0811) would
	// let one value carry another setting.
	sysctlValues = regexp.MustCompile(`^[a-zA-Z0-9_.,:/@ \t-]*$`)
	// ipcSysctls are those of the IPC namespace besides fs.mqueue (ipc/ipc_sysctl.c).
	ipcSysctls = []string{
		"kernel/shmall", "kernel/shmmax", "kernel/shmmni", "kernel/shm_rmid_forced", "kernel/shm_next_id",
		"kernel/msgmax", "kernel/msgmnb", "kernel/msgmni", "kernel/msg_next_id", "kernel/sem", "kernel/sem_next_id",
	}
)

// defaultSysctls let a pod's processes without capabilities listen on low ports and ping, as they may with containerd 2:
// such ports are the pod's own and protect nothing of the node. They are set in network namespaces of a pod's own, unless
// the pod says otherwise. Groups must be mapped in the writer's user namespace, hence none is allowed to ping in one.
func defaultSysctls(pod Pod) []sysctl {
	if pod.HostNetwork {
		return nil
	}
	list := []sysctl{{name: "net.ipv4.ip_unprivileged_port_start", path: "net/ipv4/ip_unprivileged_port_start", value: "0"}}
	if len(pod.UIDs) == 0 {
		list = append(list, sysctl{name: "net.ipv4.ping_group_range", path: "net/ipv4/ping_group_range", value: "0 2147483647"})
	}
	return list
}

// checkSysctls gives the defaults and then the pod's sysctls in order of their names; it touches nothing.
func checkSysctls(pod Pod) ([]sysctl, error) {
	if len(pod.Sysctls) > sysctlsMax {
		return nil, fmt.Errorf("%d sysctls, at most %d are taken: %w", len(pod.Sysctls), sysctlsMax, errdefs.ErrInvalidArgument)
	}
	list := defaultSysctls(pod)
	for _, name := range slices.Sorted(maps.Keys(pod.Sysctls)) {
		s := sysctl{name: name, value: pod.Sysctls[name], path: sysctlPath(name)}
		if err := s.check(pod); err != nil {
			return nil, fmt.Errorf("sysctl %.140q: %w: %w", name, err, errdefs.ErrInvalidArgument)
		}
		list = slices.DeleteFunc(list, func(d sysctl) bool { return d.path == s.path })
		list = append(list, s)
	}
	return list, nil
}

// sysctlPath reads both ways of writing: separated by '.', with '/' for a dot within a name, or the other way round,
// as sysctl(8) does. The first separator decides.
func sysctlPath(name string) string {
	if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '/' {
		return name
	}
	return strings.Map(func(r rune) rune {
		switch r {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return r
	}, name)
}

func (s *sysctl) check(pod Pod) error {
	if len(s.name) > 255 {
		return errors.New("the name is longer than 255 bytes")
	}
	for _, part := range strings.Split(s.path, "/") {
		if !sysctlParts.MatchString(part) {
			return errors.New("the name is malformed")
		}
	}
	s.ipc = slices.Contains(ipcSysctls, s.path) || strings.HasPrefix(s.path, "fs/mqueue/")
	switch {
	case s.ipc && pod.HostIPC:
		return errors.New("it belongs to the IPC namespace, which is the node's (hostIPC)")
	case s.ipc:
	case !strings.HasPrefix(s.path, "net/"):
		return errors.New("it is not namespaced; a pod can set net.*, kernel.shm*, kernel.msg*, kernel.sem and fs.mqueue.*")
	case pod.HostNetwork:
		return errors.New("it belongs to the network namespace, which is the node's (hostNetwork)")
	}
	if len(s.value) > sysctlValueMax || !sysctlValues.MatchString(s.value) {
		return fmt.Errorf("the value must be at most %d letters, digits, spaces and of _ . , : / @ -", sysctlValueMax)
	}
	return nil
}

// write sets the value in the namespaces of the calling thread: files under /proc/sys mean those of who opens them.
func (s sysctl) write(pod Pod) error {
	err := s.put()
	if s.ipc && len(pod.UIDs) > 0 && errors.Is(err, unix.EACCES) {
		// In an IPC namespace of a user namespace only that one's root may write; no capability stands in for it.
		err = s.putAsRootOf(pod)
	}
	if err == nil {
		return nil
	}
	var class error = errdefs.ErrInvalidArgument
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		class = errdefs.ErrPermissionDenied
	}
	if errors.Is(err, unix.ENOENT) {
		err = errors.New("this kernel does not have it in a pod's namespaces")
	}
	return fmt.Errorf("sysctl %q cannot be set to %q: %w: %w", s.name, s.value, err, class)
}

func (s sysctl) put() error {
	root, err := unix.Open("/proc/sys", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(root)
	fd, err := unix.Openat2(root, s.path, &unix.OpenHow{
		Flags: unix.O_WRONLY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), s.path)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return unix.ENOENT
	}
	_, err = f.WriteString(s.value)
	return err
}

// putAsRootOf writes with the effective UID of the pod's root. The raw system call changes the calling thread only.
func (s sysctl) putAsRootOf(pod Pod) error {
	uid, err := rootOf(pod.UIDs)
	if err != nil {
		return err
	}
	const keep = ^uintptr(0)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, keep, uintptr(uid), keep); errno != 0 {
		return errno
	}
	err = s.put()
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, keep, 0, keep); errno != 0 {
		return errno
	}
	return err
}
