package rich

import (
	"strings"
	"testing"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// The folder that shim and container share is on the node's tmpfs, which everything on the node needs.
func TestRootInsideCannotFillTheNodesFolders(t *testing.T) {
	n := harness.Start(t)
	c := n.RunPod(t, pod("sbin-init", "shutdown-timeout", "2s")).Run(t, "app", probe(push(t, n, "busybox", "bounds", nil), "wait", "exit=2"))
	c.AwaitLine(t, boot, "waiting")
	if code, out := exec(t, c, "sh", "-c", "head -c 64000000 /dev/zero 2>/dev/null >>/run/.pouch/record"); code == 0 {
		t.Errorf("64 MB went into the record: %s", out)
	}
	if out := n.RunPod(t).Run(t, "other", harness.Command("sleep", "1000")).Exec(t, "echo", "fine"); out != "fine\n" {
		t.Errorf("another container says %q", out)
	}
}

// A launcher that is held, and its FIFO filled: the stop goes its way.
func TestALauncherThatIsHeldDoesNotHoldAStop(t *testing.T) {
	n := harness.Start(t)
	c := n.RunPod(t, pod("sbin-init", "shutdown-timeout", "2s")).Run(t, "app", probe(push(t, n, "busybox", "held", nil), "wait", "exit=2"))
	c.AwaitLine(t, boot, "waiting")
	exec(t, c, "sh", "-c", "kill -STOP $(pidof launch); timeout 1 dd if=/dev/zero of=/run/.pouch/control bs=1 2>/dev/null")
	begun := time.Now()
	c.Stop(t, 3)
	if took := time.Since(begun); took > harness.Patience(harness.LongEnough) {
		t.Errorf("the stop took %s", took)
	}
	if s := c.Status(t); s.State != runtime.ContainerState_CONTAINER_EXITED || s.ExitCode != 137 {
		t.Errorf("it is %s with code %d", s.State, s.ExitCode)
	}
}

// An application whose launcher somebody has killed is nobody's any more: the container ends.
func TestTheLaunchersDeathIsTheContainersEnd(t *testing.T) {
	n := harness.Start(t)
	for _, m := range []machine{{"systemd", "systemd"}, {"sysvinit", "sbin-init"}, {"busybox", "sbin-init"}} {
		t.Run(m.name(), func(t *testing.T) {
			t.Parallel()
			c := n.RunPod(t, pod(m.mode)).Run(t, "app", probe(push(t, n, m.image, "launcherless", nil), "wait", "exit=2"))
			c.AwaitLine(t, boot, "waiting")
			exec(t, c, "sh", "-c", "kill -KILL $(pidof launch)")
			c.Ended(t)
			s := c.Status(t)
			if s.ExitCode != 137 || s.Reason != "Error" {
				t.Errorf("code %d, reason %s", s.ExitCode, s.Reason)
			}
			if want := "somebody inside has killed the launcher"; !strings.Contains(s.Message, want) {
				t.Errorf("the message %q does not say: %s", s.Message, want)
			}
		})
	}
}
