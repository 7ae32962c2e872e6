package network

import (
	"fmt"
	"regexp"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// configure sets up the namespaces of the calling thread, which are pod's new ones: loopback, hostname, and the sysctls of
// everything but CNI's interfaces.
func configure(pod Pod, sysctls []sysctl) error {
	if !pod.HostNetwork {
		if err := raiseLoopback(); err != nil {
			return fmt.Errorf("bring up loopback of sandbox %s: %w", pod.ID, err)
		}
		if pod.Hostname != "" {
			if err := unix.Sethostname([]byte(pod.Hostname)); err != nil {
				return fmt.Errorf("set hostname %q of sandbox %s: %w", pod.Hostname, pod.ID, err)
			}
		}
	}
	for _, s := range sysctls {
		if s.ofInterface() != "" {
			continue
		}
		if err := s.write(pod); err != nil {
			return fmt.Errorf("sandbox %s: %w", pod.ID, err)
		}
	}
	return nil
}

// raiseLoopback asks the kernel by netlink, without a plugin's process; the kernel then gives lo its addresses. The
// socket belongs to the network namespace of the thread that makes it.
func raiseLoopback() error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return err
	}
	return h.LinkSetUp(lo)
}

// hostnameMax is the kernel's bound (__NEW_UTS_LEN).
const hostnameMax = 64

var hostnames = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9_.-]*[a-zA-Z0-9])?$`)

// checkHostname refuses what is no DNS name: the name also goes into lines of files. Empty means the node's.
func checkHostname(name string) error {
	if name == "" || len(name) <= hostnameMax && hostnames.MatchString(name) {
		return nil
	}
	return fmt.Errorf("hostname %.80q must be at most %d letters, digits, '-', '_' and '.', with a letter or digit at both ends: %w", name, hostnameMax, errdefs.ErrInvalidArgument)
}
