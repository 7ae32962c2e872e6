package integration

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// startHeld starts the daemon and lets it wait at a step of its recovery until goOn is called, which returns when it is ready.
func startHeld(t *testing.T, n *harness.Node, step string) (goOn func()) {
	t.Helper()
	held := filepath.Join(t.TempDir(), "held")
	ready := make(chan error, 1)
	go func() { ready <- n.Daemon.Start(harness.Context(t), "CRI_POUCH_FAILPOINTS="+step+"=hold:"+held) }()
	awaitFile(t, held)
	return func() {
		t.Helper()
		if err := os.Remove(held); err != nil {
			t.Fatal(err)
		}
		if err := <-ready; err != nil {
			t.Fatal(err)
		}
	}
}

func awaitFile(t *testing.T, path string) {
	t.Helper()
	harness.Eventually(t, path+" is there", func() bool { _, err := os.Stat(path); return err == nil })
}

func touch(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A prestart hook that ends after a new daemon has looked and before it has ended the start lets the program run: the daemon
// takes the container over, as one whose program had begun before.
func TestAProgramThatBeginsDuringTheRecoveryIsTakenOver(t *testing.T) {
	n := harness.Start(t, harness.Failpoints(t))
	for name, end := range map[string]func(t *testing.T, c *harness.Container){
		"and stopped": func(t *testing.T, c *harness.Container) { c.Stop(t, 0) },
		"and removed": func(t *testing.T, c *harness.Container) { c.Remove(t) },
		"and stopped with its pod": func(t *testing.T, c *harness.Container) {
			if _, err := n.Daemon.Runtime.StopPodSandbox(harness.Context(t), &runtime.StopPodSandboxRequest{PodSandboxId: c.Pod.ID}); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			p := n.RunPod(t, hooks(t, prestartKey, shell("slow", "touch /witness/begun; while [ ! -e /witness/go ]; do sleep 0.05; done", "timeout", "60s")),
				hooks(t, poststopKey, shell("clean", "ip -o addr show eth0 | grep inet >/witness/cleaned; echo >>/witness/cleanings")))
			c := p.Create(t, "app", witness(dir), harness.Sh("echo >>/witness/ran; exec sleep 43219873"))
			failed := make(chan error, 1)
			go func() { failed <- tryStart(t, c) }()
			awaitFile(t, filepath.Join(dir, "begun"))
			n.KillDaemon(t)
			<-failed
			goOn := startHeld(t, n, "containers.listed")
			touch(t, filepath.Join(dir, "go"))
			awaitFile(t, filepath.Join(dir, "ran"))
			goOn()
			if name == "and stopped" {
				harness.Eventually(t, "the container runs", func() bool { return c.Status(t).State == runtime.ContainerState_CONTAINER_RUNNING })
				c.Start(t) // a client that asks again
				if got, want := hookStory(t, n, c), []string{"created", "hook prestart hook slow succeeded", "started"}; !slices.Equal(got, want) {
					t.Errorf("the journal says %q", got)
				}
			}
			end(t, c)
			if running("43219873") {
				t.Error("the program runs still")
			}
			for name, want := range map[string]string{"ran": "\n", "cleanings": "\n"} {
				if b, _ := os.ReadFile(filepath.Join(dir, name)); string(b) != want {
					t.Errorf("%s happened %d times", name, len(b))
				}
			}
			if b, _ := os.ReadFile(filepath.Join(dir, "cleaned")); len(b) == 0 {
				t.Error("the poststop hook had no network")
			}
		})
	}
}
