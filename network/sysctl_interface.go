package network

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// ofInterface returns the interface that the sysctl is a setting of, "" where it is none of one that CNI makes. Settings of all
// interfaces and those that new ones begin with have to be there before CNI makes any.
func (s sysctl) ofInterface() string {
	parts := strings.Split(s.path, "/") // net/FAMILY/conf/INTERFACE/NAME
	if len(parts) != 5 || parts[0] != "net" || parts[2] != "conf" && parts[2] != "neigh" {
		return ""
	}
	if slices.Contains([]string{"all", "default", "lo"}, parts[3]) {
		return ""
	}
	return parts[3]
}

// writeInterfaceSysctls sets the sysctls of interfaces in the pod's network namespace, once CNI has made them. They come last, so
// that no plugin sets them otherwise.
func writeInterfaceSysctls(pod Pod, netns string, sysctls []sysctl) error {
	sysctls = slices.DeleteFunc(sysctls, func(s sysctl) bool { return s.ofInterface() == "" })
	if len(sysctls) == 0 {
		return nil
	}
	return onThread(func() error {
		if err := enter(netns, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter the network namespace of sandbox %s: %w", pod.ID, err)
		}
		for _, s := range sysctls {
			err := s.write(pod)
			if err != nil && !hasInterface(s.ofInterface()) {
				return fmt.Errorf("sysctl %q: CNI has made no interface %q in the pod: %w", s.name, s.ofInterface(), errdefs.ErrInvalidArgument)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// hasInterface reports whether the network namespace of the calling thread has the interface.
func hasInterface(name string) bool {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq(name)
	return err == nil && unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, request) == nil
}
