package integration

import (
	"encoding/json"
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
type hook map[string]any

// shell is a hook that runs a script; pairs are further fields and their values.
func shell(name, script string, pairs ...any) hook {
	h := hook{"name": name, "exec": []string{"sh", "-c", script}}
	for i := 0; i < len(pairs); i += 2 {
		h[pairs[i].(string)] = pairs[i+1]
	}
	return h
}

// hooks declares the hooks of one stage.
func hooks(t testing.TB, key string, list ...hook) func(*runtime.PodSandboxConfig) {
	t.Helper()
	b, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	return annotated(key, string(b))
}

// verboseInfo decodes the verbose part of a container's status.
func verboseInfo(t testing.TB, c *harness.Container, into any) {
	t.Helper()
	r, err := c.Pod.Node.Daemon.Runtime.ContainerStatus(harness.Context(t), &runtime.ContainerStatusRequest{ContainerId: c.ID, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(r.Info["info"]), into); err != nil {
		t.Fatal(err)
	}
}

// hookResults is what a verbose status tells of a container's hooks.
func hookResults(t testing.TB, c *harness.Container) []hookrun.Result {
	t.Helper()
	var info struct {
		Hooks []hookrun.Result `json:"hooks"`
	}
	verboseInfo(t, c, &info)
	return info.Hooks
}

// outcomes is what became of hooks, as "prestart routes succeeded".
func outcomes(results []hookrun.Result) (all []string) {
	for _, r := range results {
		all = append(all, string(r.Stage)+" "+r.Name+" "+string(r.Outcome))
	}
	return all
}

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
