package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// One container gets a new image, in the kubelet's order, while the pod around it stays as it is.
func TestContainerIsReplacedInPlace(t *testing.T) {
	n := harness.Start(t)
	p := n.RunPod(t)
	volume := filepath.Join(n.Dir, "volume")
	if err := os.Mkdir(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	mount := func(c *runtime.ContainerConfig) {
		c.Mounts = []*runtime.Mount{{HostPath: volume, ContainerPath: "/data"}}
	}
	agent := p.Run(t, "agent", mount, harness.Sh("i=0; while true; do echo tick $i; i=$((i+1)); sleep 0.05; done"))
	old := p.Run(t, "web", mount, harness.Sh("cat /version > /data/note; exec sleep 1000000"))
	harness.Eventually(t, "version 1 writes to its volume", func() bool {
		b, _ := os.ReadFile(filepath.Join(volume, "note"))
		return string(b) == "one\n"
	})
	agent.AwaitLog(t, "tick 2")
	beforePod, beforeAgent := p.Status(t), agent.Status(t)
	beforeNet := old.Exec(t, "readlink", "/proc/self/ns/net")
	beforeBoot := agent.Exec(t, "sh", "-c", "cut -d' ' -f22 /proc/1/stat")

	old.Stop(t, 1)
	image := n.Pull(t, harness.Busybox2)
	web := p.Run(t, "web", mount, func(c *runtime.ContainerConfig) {
		c.Metadata.Attempt, c.LogPath = 1, "web_1.log"
		c.Image = &runtime.ImageSpec{Image: image, UserSpecifiedImage: harness.Busybox2} // the kubelet creates by ID
	})

	afterPod, afterAgent := p.Status(t), agent.Status(t)
	if afterPod.Id != beforePod.Id || afterPod.State != runtime.PodSandboxState_SANDBOX_READY || afterPod.CreatedAt != beforePod.CreatedAt {
		t.Errorf("the sandbox changed: %v, %v", beforePod, afterPod)
	}
	if afterPod.GetNetwork().GetIp() != beforePod.GetNetwork().GetIp() {
		t.Errorf("the IP changed from %s to %s", beforePod.GetNetwork().GetIp(), afterPod.GetNetwork().GetIp())
	}
	if got := web.Exec(t, "readlink", "/proc/self/ns/net"); got != beforeNet {
		t.Errorf("the network namespace changed from %s to %s", beforeNet, got)
	}
	if afterAgent.StartedAt != beforeAgent.StartedAt || afterAgent.State != runtime.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the other container changed: %v, %v", beforeAgent, afterAgent)
	}
	if got := agent.Exec(t, "sh", "-c", "cut -d' ' -f22 /proc/1/stat"); got != beforeBoot {
		t.Error("the other container's process is another one")
	}
	if got := web.Exec(t, "cat", "/version", "/data/note"); got != "two\none\n" {
		t.Errorf("version and volume are %q", got)
	}
	was, now := old.Status(t), web.Status(t)
	if was.State != runtime.ContainerState_CONTAINER_EXITED || was.FinishedAt >= now.StartedAt || was.CreatedAt >= now.CreatedAt {
		t.Errorf("old and new container: %v, %v", was, now)
	}
	if now.Image.GetImage() != harness.Busybox2 || now.ImageId != image || !strings.Contains(now.ImageRef, "@sha256:") {
		t.Errorf("the new container's image is %q, id %q, ref %q", now.Image.GetImage(), now.ImageId, now.ImageRef)
	}
	t.Logf("outage %s", time.Duration(now.StartedAt-was.FinishedAt))
	old.Remove(t)
	if got := listContainers(t, n, &runtime.ContainerFilter{PodSandboxId: p.ID}); len(got) != 2 {
		t.Errorf("%d containers are listed", len(got))
	}
}

// A container of the same name with the next attempt may be made while the old one is still running, as the kubelet does
// for a container that it has lost sight of; both are listed, the newest by created_at is the current one.
func TestRestartsOfAContainerKeepTheirOrder(t *testing.T) {
	n := harness.Start(t)
	p := n.RunPod(t)
	var last int64
	for attempt := range uint32(5) {
		c := p.Run(t, "app", harness.Command("true"), func(c *runtime.ContainerConfig) { c.Metadata.Attempt = attempt })
		if _, code := c.Ended(t); code != 0 {
			t.Errorf("attempt %d exits with %d", attempt, code)
		}
		s := c.Status(t)
		if s.CreatedAt <= last || s.StartedAt < s.CreatedAt || s.FinishedAt < s.StartedAt {
			t.Errorf("attempt %d: created %d, started %d, finished %d; the one before was created %d", attempt, s.CreatedAt, s.StartedAt, s.FinishedAt, last)
		}
		if s.Reason != "Completed" {
			t.Errorf("attempt %d ended with reason %q", attempt, s.Reason)
		}
		last = s.CreatedAt
	}
}
