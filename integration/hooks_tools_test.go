package integration

import (
	"strings"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
	"github.com/cri-pouch/cri-pouch/internal/hookrun"
)

const (
	prestartKey = "hooks.cri-pouch.io/prestart"
	poststopKey = "hooks.cri-pouch.io/poststop"
)

// hook is one hook as a pod's author writes it.
type hook = harness.Hook

// shell is a hook that runs a script; pairs are further fields and their values.
func shell(name, script string, pairs ...any) hook {
	return harness.ShellHook(name, script, pairs...)
}

// hooks declares the hooks of one stage.
func hooks(t testing.TB, key string, list ...hook) func(*runtime.PodSandboxConfig) {
	t.Helper()
	return harness.Hooks(t, hookrun.Stage(strings.TrimPrefix(key, "hooks.cri-pouch.io/")), list...)
}

// hookResults is what a verbose status tells of a container's hooks.
func hookResults(t testing.TB, c *harness.Container) []hookrun.Result {
	t.Helper()
	return c.Told(t).Hooks
}

// outcomes is what became of hooks, as "prestart routes succeeded".
func outcomes(results []hookrun.Result) []string { return harness.Outcomes(results) }

// tryStart starts a container and gives the daemon's answer.
func tryStart(t testing.TB, c *harness.Container) error {
	t.Helper()
	_, err := c.Pod.Node.Daemon.Runtime.StartContainer(harness.Context(t), &runtime.StartContainerRequest{ContainerId: c.ID})
	return err
}

// witness mounts a folder of the test's at /witness.
func witness(dir string) func(*runtime.ContainerConfig) {
	return func(c *runtime.ContainerConfig) {
		c.Mounts = append(c.Mounts, &runtime.Mount{HostPath: dir, ContainerPath: "/witness"})
	}
}
