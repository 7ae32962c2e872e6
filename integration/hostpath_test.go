package integration

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// The kubelet makes nothing for a hostPath of no type, and manifests rely on the runtime to make the folder.
func TestMissingHostPathIsMade(t *testing.T) {
	n := harness.Start(t)
	p := n.RunPod(t)
	n.Pull(t, harness.Busybox)
	host := filepath.Join(t.TempDir(), "run", "flannel")
	text, code := p.RunToEnd(t, "app", harness.Sh("echo seen >/made/file && cat /made/file"), func(c *runtime.ContainerConfig) {
		c.Mounts = append(c.Mounts, &runtime.Mount{HostPath: host, ContainerPath: "/made"})
	})
	if code != 0 || text != "seen\n" {
		t.Errorf("the container ended with %d: %q", code, text)
	}
	for _, dir := range []string{host, filepath.Dir(host)} {
		if st, err := os.Stat(dir); err != nil || st.Mode() != fs.ModeDir|0o755 {
			t.Errorf("%s: %v, %v, want a folder with mode 0755", dir, st, err)
		}
	}
	if b, err := os.ReadFile(filepath.Join(host, "file")); string(b) != "seen\n" {
		t.Errorf("on the node: %q, %v", b, err)
	}
}
