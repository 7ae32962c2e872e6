package rich

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
	"github.com/cri-pouch/cri-pouch/integration/lab"
	"github.com/cri-pouch/cri-pouch/internal/cgrouptree"
)

// onV2 says whether the machine's controllers are those of cgroup v2.
func onV2(t *testing.T) bool {
	t.Helper()
	unified, err := cgrouptree.FindUnified()
	if err != nil {
		t.Fatal(err)
	}
	return unified.Mountpoint == "/sys/fs/cgroup"
}

// limitMemory gives the container 256 MiB, and with group what the kubelet asks for on cgroup v2: that the OOM killer take all
// of a container or nothing.
func limitMemory(c *runtime.ContainerConfig, group bool) {
	c.Linux.Resources.MemoryLimitInBytes, c.Linux.Resources.MemorySwapLimitInBytes = 256<<20, 256<<20
	if group {
		c.Linux.Resources.Unified = map[string]string{"memory.oom.group": "1"}
	}
}

// The application is taken as a whole where the kubelet asks for that; init and services are not: they shut down in order.
func TestAnOOMInTheApplication(t *testing.T) {
	const lines = "::sysinit:/bin/touch /witness/started\n::shutdown:/bin/touch /witness/stopped\n"
	files := map[machine][]lab.File{
		{"systemd", "systemd"}:   service("witness.service", witness),
		{"busybox", "sbin-init"}: {{Name: "etc/inittab", Content: []byte(lines)}},
	}
	for m, files := range files {
		for name, group := range map[string]bool{"as a whole": true, "one process": false} {
			t.Run(m.name()+", "+name, func(t *testing.T) {
				if group && !onV2(t) {
					t.Skip("memory.oom.group is cgroup v2's: make test-vm-rich")
				}
				base(t, m.image)
				n := harness.Start(t)
				anOOMInTheApplication(t, n, m, push(t, n, m.image, "oom-app", nil, files...), group)
			})
		}
	}
}

func anOOMInTheApplication(t *testing.T, n *harness.Node, m machine, ref string, group bool) {
	dir := t.TempDir()
	c := n.RunPod(t, pod(m.mode)).Run(t, "app", image(ref, "sh", "-c",
		"until test -e /witness/started; do sleep 0.2; done; sleep 1; probe grow; echo one has gone; exec probe wait mark=/witness/asked exit=3"), func(c *runtime.ContainerConfig) {
		limitMemory(c, group)
		c.Mounts = []*runtime.Mount{{HostPath: dir, ContainerPath: "/witness"}}
	})
	if !group {
		c.AwaitLine(t, boot, "waiting")
		c.Stop(t, 90)
	}
	text, code := c.Ended(t)
	s := c.Status(t)
	if group && (code != 137 || s.Reason != "OOMKilled" || strings.Contains(text, "gone")) {
		t.Errorf("code %d, reason %s, log %q", code, s.Reason, text)
	}
	if !group && (code != 3 || s.Reason == "OOMKilled" || !strings.Contains(text, "one has gone")) {
		t.Errorf("code %d, reason %s, log %q", code, s.Reason, text)
	}
	mustExist(t, dir, "stopped")
}

func TestAnOOMOfAServiceLeavesTheApplication(t *testing.T) {
	v2 := onV2(t)
	n, ref := onSystemd(t, "oom", map[string]string{
		"hungry.service": "[Service]\nExecStart=/usr/local/bin/probe sleep=500ms grow\nExecStopPost=/bin/sh -c 'echo $SERVICE_RESULT >/witness/new; mv /witness/new /witness/result'\n"})
	dir := t.TempDir()
	c := n.RunPod(t, pod("systemd")).Run(t, "app", probe(ref, "wait", "exit=2"), func(c *runtime.ContainerConfig) {
		limitMemory(c, v2)
		c.Mounts = []*runtime.Mount{{HostPath: dir, ContainerPath: "/witness"}}
	})
	c.AwaitLine(t, boot, "waiting")
	// An exec into a container that is out of memory would call for the next victim.
	var result []byte
	harness.Eventually(t, "the service was killed", func() bool {
		b, err := os.ReadFile(filepath.Join(dir, "result"))
		result = b
		return err == nil
	})
	if got := strings.TrimSpace(string(result)); got != "signal" && got != "oom-kill" {
		t.Fatalf("the service ended with %s", got)
	}
	if s := c.Status(t); s.State != runtime.ContainerState_CONTAINER_RUNNING {
		t.Fatalf("the container is %s, %s", s.State, s.Reason)
	}
	c.Stop(t, 90)
	if s := c.Status(t); s.ExitCode != 2 || s.Reason == "OOMKilled" {
		t.Errorf("code %d, reason %s", s.ExitCode, s.Reason)
	}
}

// pid 1 is the last that the OOM killer takes, for it is small; if it does, the application goes with it.
func TestAnOOMOfTheInitIsToldOf(t *testing.T) {
	n, ref := onSystemd(t, "oom-init", nil)
	c := n.RunPod(t, pod("systemd")).Run(t, "app", probe(ref, "wait"), func(c *runtime.ContainerConfig) { limitMemory(c, false) })
	c.AwaitLine(t, boot, "waiting")
	c.Exec(t, "sh", "-c", "echo 1000 >/proc/1/oom_score_adj")
	// The exec ends with the container, in whatever way.
	_, _ = n.Daemon.Runtime.ExecSync(harness.Context(t), &runtime.ExecSyncRequest{ContainerId: c.ID, Cmd: []string{"probe", "grow"}, Timeout: 50})
	c.Ended(t)
	if s := c.Status(t); s.ExitCode != 137 || s.Reason != "OOMKilled" {
		t.Errorf("code %d, reason %s", s.ExitCode, s.Reason)
	}
}
