package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// The daemon dies while a hook of the node holds a start up: the shim goes on by itself, the next attempt starts, and what
// ran for the first one has its end.
func TestTheDaemonDiesWhileANodeHookRuns(t *testing.T) {
	for _, stage := range []string{"createRuntime", "createContainer", "startContainer", "poststart"} {
		t.Run(stage, func(t *testing.T) {
			h := withHooks(t)
			dir := openDir(t)
			h.declare(t, "10-stop.json", declaration(always, h.program, []string{"poststop"}, "poststop"))
			h.script(t, "20-slow.json", stage, 20, "exec 2>&1; : > "+filepath.Join(dir, "begun")+"; while [ ! -e "+filepath.Join(dir, "go")+" ]; do sleep 0.05; done")
			p := h.RunPod(t)
			c := p.Create(t, "app", func(c *runtime.ContainerConfig) {
				c.Mounts = []*runtime.Mount{{HostPath: dir, ContainerPath: dir}}
			})
			answered := make(chan struct{})
			go func() {
				defer close(answered)
				_, _ = h.Daemon.Runtime.StartContainer(harness.Context(t), &runtime.StartContainerRequest{ContainerId: c.ID})
			}()
			harness.Eventually(t, "the hook runs", func() bool { _, err := os.Stat(filepath.Join(dir, "begun")); return err == nil })
			h.KillDaemon(t)
			<-answered
			if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
			h.StartDaemon(t)
			h.withdraw(t, "20-slow.json")
			next := p.Run(t, "app", func(c *runtime.ContainerConfig) { c.Metadata.Attempt = 1 })
			next.Stop(t, 0)
			p.Remove(t)
			if got := said(h.notes(t)); !slices.Equal(got, []string{"poststop", "poststop"}) {
				t.Errorf("%q", got)
			}
		})
	}
}

// The daemon dies while the shim makes a container, and the next one is there before the shim is done: the program has not run,
// so the container is as good as new, and a repeated request starts it.
func TestTheDaemonIsBackBeforeACreationIsDone(t *testing.T) {
	h := withHooks(t)
	dir := openDir(t)
	h.script(t, "20-slow.json", "createRuntime", 20, "exec 2>&1; : > "+filepath.Join(dir, "begun")+"; while [ ! -e "+filepath.Join(dir, "go")+" ]; do sleep 0.05; done")
	p := h.RunPod(t)
	c := p.Create(t, "app")
	start := func() error {
		_, err := h.Daemon.Runtime.StartContainer(harness.Context(t), &runtime.StartContainerRequest{ContainerId: c.ID})
		return err
	}
	answered := make(chan error)
	go func() { answered <- start() }()
	harness.Eventually(t, "the hook runs", func() bool { _, err := os.Stat(filepath.Join(dir, "begun")); return err == nil })
	h.KillDaemon(t)
	<-answered
	h.StartDaemon(t)
	if s := c.Status(t); s.State != runtime.ContainerState_CONTAINER_CREATED {
		t.Errorf("the container is %v", s)
	}
	go func() { answered <- start() }()
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err != nil {
		t.Errorf("the repeated start: %v", err)
	}
	if s := c.Status(t); s.State != runtime.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the container is %v", s)
	}
}

// The daemon dies while a poststart hook runs that fails later: the next one has found the container running, and it ends as any
// other does, also where that happens while nobody listens.
func TestAPoststartHookFailsAfterTheDaemonsDeath(t *testing.T) {
	for name, held := range map[string]bool{"while the next one serves": false, "while the next one recovers": true} {
		t.Run(name, func(t *testing.T) {
			h := withHooks(t, harness.Failpoints(t))
			dir := openDir(t)
			h.declare(t, "10-stop.json", declaration(always, h.program, []string{"poststop"}, "poststop"))
			h.script(t, "20-slow.json", "poststart", 20, "exec 2>&1; : > "+filepath.Join(dir, "begun")+"; while [ ! -e "+filepath.Join(dir, "go")+" ]; do sleep 0.05; done; echo no such device; exit 5")
			p := h.RunPod(t, hooks(t, poststopKey, shell("clean", "echo >>/witness/cleaned")))
			c := p.Create(t, "app", witness(dir))
			failed := make(chan error, 1)
			go func() { failed <- tryStart(t, c) }()
			awaitFile(t, filepath.Join(dir, "begun"))
			h.KillDaemon(t)
			<-failed
			if held {
				goOn := startHeld(t, h.Node, "containers.listed")
				touch(t, filepath.Join(dir, "go"))
				harness.Eventually(t, "the program is killed", func() bool { b, _ := os.ReadFile(filepath.Join(dir, "cleaned")); return len(b) > 0 })
				goOn()
			} else {
				h.StartDaemon(t)
				if s := c.Status(t); s.State != runtime.ContainerState_CONTAINER_RUNNING {
					t.Errorf("the container is %v", s)
				}
				touch(t, filepath.Join(dir, "go"))
			}
			if _, code := c.Ended(t); code != 137 {
				t.Errorf("code %d", code)
			}
			if s := c.Status(t); s.Reason != "Error" || !strings.Contains(s.Message, "the node's poststart hook") || !strings.Contains(s.Message, "no such device") {
				t.Errorf("the container is %v", s)
			}
			c.Stop(t, 0)
			p.Remove(t)
			if got := said(h.notes(t)); !slices.Equal(got, []string{"poststop"}) {
				t.Errorf("%q", got)
			}
			if b, _ := os.ReadFile(filepath.Join(dir, "cleaned")); string(b) != "\n" {
				t.Errorf("the pod's poststop hook ran %d times", len(b))
			}
		})
	}
}
