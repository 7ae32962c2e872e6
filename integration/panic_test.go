package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// panicsAt gives a node whose daemon panics at a step each time that arm was called before.
func panicsAt(t *testing.T, step string) (n *harness.Node, metrics string, arm func()) {
	t.Helper()
	option, metrics := metricsOption(t)
	n = harness.Prepare(t, harness.Failpoints(t), option)
	file := filepath.Join(t.TempDir(), "panic")
	n.StartDaemon(t, "CRI_POUCH_FAILPOINTS="+step+"=panic:"+file)
	return n, metrics, func() {
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// outlived checks that one panic has happened, stands in the log with its stack and in the metrics, and ended nothing else.
func outlived(t *testing.T, n *harness.Node, daemon int, metrics string, b bystander) {
	t.Helper()
	if !n.Daemon.Running() || n.Daemon.PID() != daemon {
		t.Fatal("the daemon has ended")
	}
	b.check(t)
	if text, err := httpGet("http://" + metrics + "/metrics"); err != nil || !strings.Contains(text, `cri_pouch_panics_total{component="cri"} 1`) {
		t.Errorf("the panic is not counted, %v", err)
	}
	log, err := os.ReadFile(n.Daemon.Log)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"panic: failpoint", "failpoint.Hit"} {
		if !strings.Contains(string(log), want) {
			t.Errorf("the log lacks %q", want)
		}
	}
}

func TestTheDaemonOutlivesAPanic(t *testing.T) {
	t.Run("that makes a sandbox", func(t *testing.T) {
		n, metrics, arm := panicsAt(t, "network.attached")
		b, daemon := newBystander(t, n), n.Daemon.PID()
		c := n.PodConfig(t)
		arm()
		if _, err := n.Daemon.Runtime.RunPodSandbox(harness.Context(t), &runtime.RunPodSandboxRequest{Config: c}); status.Code(err) != codes.Internal {
			t.Errorf("RunPodSandbox gave %v", err)
		}
		outlived(t, n, daemon, metrics, b)
		n.RunPodConfig(t, c) // the same request again
	})
	t.Run("that makes a container", func(t *testing.T) {
		n, metrics, arm := panicsAt(t, "container.prepared")
		b, daemon := newBystander(t, n), n.Daemon.PID()
		p := n.RunPod(t)
		n.Pull(t, harness.Busybox)
		c := p.ContainerConfig("app", harness.Sh("exit 3"))
		arm()
		if _, err := p.TryCreate(harness.Context(t), c); status.Code(err) != codes.Internal {
			t.Errorf("CreateContainer gave %v", err)
		}
		outlived(t, n, daemon, metrics, b)
		if _, code := p.RunToEnd(t, "app", harness.Sh("exit 3")); code != 3 {
			t.Errorf("the exit code is %d", code)
		}
	})
	t.Run("that starts a container", func(t *testing.T) {
		n, metrics, arm := panicsAt(t, "container.created")
		b, daemon := newBystander(t, n), n.Daemon.PID()
		p := n.RunPod(t)
		c := p.Create(t, "app")
		arm()
		_, err := n.Daemon.Runtime.StartContainer(harness.Context(t), &runtime.StartContainerRequest{ContainerId: c.ID})
		if status.Code(err) != codes.Internal {
			t.Errorf("StartContainer gave %v", err)
		}
		outlived(t, n, daemon, metrics, b)
		// What had been done is undone: the shim has nothing of it.
		if s := c.Status(t); s.State != runtime.ContainerState_CONTAINER_EXITED || s.Reason != "StartError" || s.ExitCode != 128 {
			t.Errorf("the container is %s (%s, %d)", s.State, s.Reason, s.ExitCode)
		}
		if left, _ := filepath.Glob(filepath.Join(n.StateDir(), "shim", "containers", c.ID)); len(left) > 0 {
			t.Errorf("the shim has %v", left)
		}
		p.Run(t, "next")
	})
	t.Run("that records an end", func(t *testing.T) {
		n, metrics, arm := panicsAt(t, "container.end-recorded")
		b, daemon := newBystander(t, n), n.Daemon.PID()
		p := n.RunPod(t)
		arm()
		if text, code := p.RunToEnd(t, "app", harness.Sh("echo last words; exit 3")); code != 3 || text != "last words\n" {
			t.Errorf("the exit code is %d, the log %q", code, text)
		}
		outlived(t, n, daemon, metrics, b)
	})
}
