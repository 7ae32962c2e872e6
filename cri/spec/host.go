package spec

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/contrib/apparmor"
	"github.com/moby/sys/capability"
	selinux "github.com/opencontainers/selinux/go-selinux"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/cgrouptree"
)

// defaultAppArmor is the name of the profile that confines containers which ask for the runtime's default.
const defaultAppArmor = "cri-pouch-default"

// kubeletSeccomp is where the kubelet keeps profiles that pods name.
const kubeletSeccomp = "/var/lib/kubelet/seccomp"

// host holds the places of the node that Build looks at; tests put their own there.
type host struct {
	dev              string // device nodes
	appArmorProfiles string // names of the loaded profiles
	mountinfo        string // the mounts that host paths are in
	hostname         func() (string, error)
}

func thisHost() host {
	return host{
		dev: "/dev", appArmorProfiles: "/sys/kernel/security/apparmor/profiles", hostname: os.Hostname,
		// Of this thread: /proc/self is the main thread, which may have been left in another mount namespace.
		mountinfo: "/proc/thread-self/mountinfo",
	}
}

// DetectNode looks at the node: cgroup version and controllers, AppArmor (its default profile is loaded if need be), SELinux,
// capabilities. The choice of the cgroup driver is the administrator's.
func DetectNode() (Node, error) {
	n := Node{SeccompRoot: kubeletSeccomp, SELinux: selinux.GetEnabled(), AllCaps: givableCapabilities(), RecursiveReadOnly: hasMountSetattr()}
	var st unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &st); err != nil {
		return Node{}, fmt.Errorf("look at the cgroups of /sys/fs/cgroup: %w", err)
	}
	n.CgroupV2 = st.Type == unix.CGROUP2_SUPER_MAGIC
	unified, err := cgrouptree.FindUnified()
	if err != nil {
		return Node{}, err
	}
	n.CgroupFlags = unified.Flags
	if err := n.detectControllers(); err != nil {
		return Node{}, err
	}
	if !hasAppArmor() {
		return n, nil
	}
	n.AppArmor = true
	// Without the parser no profile can be loaded; one that is loaded already serves as well.
	loaded, err := thisHost().appArmorLoaded(defaultAppArmor)
	if err != nil {
		return Node{}, err
	}
	if !loaded && hasAppArmorParser() {
		if err := apparmor.LoadDefaultProfile(defaultAppArmor); err != nil {
			return Node{}, fmt.Errorf("load AppArmor profile %s: %w", defaultAppArmor, err)
		}
		loaded = true
	}
	if loaded {
		n.DefaultAppArmor = defaultAppArmor
	}
	return n, nil
}

// detectControllers looks for what not every kernel has. In v2 the files of a controller are in all cgroups but the root's.
func (n *Node) detectControllers() error {
	if !n.CgroupV2 {
		n.SwapLimit = exists("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
		n.HugeTLB = exists("/sys/fs/cgroup/hugetlb/cgroup.procs")
		return nil
	}
	b, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	if err != nil {
		return fmt.Errorf("read the cgroup controllers: %w", err)
	}
	n.HugeTLB = strings.Contains(" "+strings.TrimSpace(string(b))+" ", " hugetlb ")
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return fmt.Errorf("read the own cgroup: %w", err)
	}
	for line := range strings.Lines(string(own)) {
		if p, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			n.SwapLimit = exists(filepath.Join("/sys/fs/cgroup", p, "memory.swap.max"))
		}
	}
	return nil
}

func exists(p string) bool {
	_, err := os.Stat(p)
	return err == nil
}

// hasMountSetattr asks for a change of a mount that is not there. A kernel that lacks the call, or a filter that keeps the
// daemon from it, gives another error.
func hasMountSetattr() bool {
	err := unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	return errors.Is(err, unix.EBADF)
}

func hasAppArmor() bool {
	b, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	return err == nil && strings.HasPrefix(string(b), "Y") && exists("/sys/kernel/security/apparmor")
}

func hasAppArmorParser() bool {
	return exists("/sbin/apparmor_parser") || exists("/usr/sbin/apparmor_parser")
}

// appArmorLoaded says whether the kernel knows the profile.
func (h host) appArmorLoaded(name string) (bool, error) {
	b, err := os.ReadFile(h.appArmorProfiles)
	if err != nil {
		return false, fmt.Errorf("read the loaded AppArmor profiles: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		// "name (enforce)": the name may have blanks and brackets itself.
		if i := strings.LastIndex(line, " ("); i >= 0 && line[:i] == name {
			return true, nil
		}
	}
	return false, nil
}

// givableCapabilities are those that this process may pass on: what is in its bounding set.
func givableCapabilities() []string {
	own, err := capability.NewPid2(0)
	if err == nil {
		err = own.Load()
	}
	var names []string
	for _, c := range capability.ListKnown() {
		if err == nil && own.Get(capability.BOUNDING, c) {
			names = append(names, "CAP_"+strings.ToUpper(c.String()))
		}
	}
	return names
}
