package integration

import (
	"os"
	"path/filepath"
	"slices"
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
