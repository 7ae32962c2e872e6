package harness

import (
	"errors"
	"io/fs"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// OwnCgroup gives the pod a cgroup parent of its own and removes it after the pod, as the kubelet does.
func OwnCgroup(t testing.TB, n *Node) func(*runtime.PodSandboxConfig) {
	return func(c *runtime.PodSandboxConfig) {
		uid := strings.ReplaceAll(c.Metadata.Uid, "-", "_")
		c.Linux.CgroupParent = n.CgroupParent() + "/" + uid
		if n.Systemd {
			c.Linux.CgroupParent = n.Name + "-" + uid + ".slice"
		}
		t.Cleanup(func() {
			if n.Systemd { // it would make the folder again with the next slice beside it
				if out, err := exec.Command("systemctl", "stop", c.Linux.CgroupParent).CombinedOutput(); err != nil {
					t.Errorf("stop %s: %v, %s", c.Linux.CgroupParent, err, out)
				}
			}
			for _, dir := range PodCgroups(t, n, c) {
				if err := unix.Rmdir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("remove cgroup %s: %v", dir, err)
				}
			}
		})
	}
}

// PodCgroups are the folders of the cgroup that OwnCgroup gave the pod, one in each hierarchy.
func PodCgroups(t testing.TB, n *Node, pod *runtime.PodSandboxConfig) (out []string) {
	t.Helper()
	all, err := n.Cgroups()
	if err != nil {
		t.Error(err)
	}
	for _, dir := range all {
		if filepath.Base(dir) == filepath.Base(pod.Linux.CgroupParent) {
			out = append(out, dir)
		}
	}
	return out
}
