package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// Whatever a container is, its hooks run in it, with its restrictions.
func TestHooksOfEveryKindOfContainer(t *testing.T) {
	n := harness.Start(t)
	n.Pull(t, harness.Busybox)
	userns := func(c *runtime.PodSandboxConfig) {
		ids := []*runtime.IDMapping{{ContainerId: 0, HostId: 200000, Length: 65536}}
		c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &runtime.UserNamespace{Mode: runtime.NamespaceMode_POD, Uids: ids, Gids: ids}
	}
	for name, test := range map[string]struct {
		pod    func(*runtime.PodSandboxConfig)
		edit   func(*runtime.ContainerConfig)
		script string
		want   string
	}{
		"plain":                 {nil, nil, "id -u; grep NoNewPrivs /proc/self/status", "0\nNoNewPrivs:\t0\n"},
		"read-only":             {nil, func(c *runtime.ContainerConfig) { c.Linux.SecurityContext.ReadonlyRootfs = true }, "touch /x 2>/dev/null || echo read-only", "read-only\n"},
		"with a user namespace": {userns, nil, "id -u; tr -s ' ' </proc/self/uid_map", "0\n 0 200000 65536\n"},
		"restricted": {nil, func(c *runtime.ContainerConfig) {
			s := c.Linux.SecurityContext
			s.RunAsUser, s.NoNewPrivs, s.Capabilities = &runtime.Int64Value{Value: 1000}, true, &runtime.Capability{DropCapabilities: []string{"ALL"}}
			s.Seccomp = &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_RuntimeDefault}
		}, "id -u; grep -E 'NoNewPrivs|CapBnd|Seccomp:' /proc/self/status", "1000\nCapBnd:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n"},
		"on the node's network": {func(c *runtime.PodSandboxConfig) {
			c.Linux.SecurityContext.NamespaceOptions.Network = runtime.NamespaceMode_NODE
		}, nil, "[ -e /sys/class/net/" + n.Network.Bridge + " ] || [ -n \"$(ip link show " + n.Network.Bridge + ")\" ] && echo seen", "seen\n"},
		"with the node's processes": {func(c *runtime.PodSandboxConfig) {
			c.Linux.SecurityContext.NamespaceOptions.Pid = runtime.NamespaceMode_NODE
		}, nil, "[ $(ls -d /proc/[0-9]* | wc -l) -gt 3 ] && echo seen", "seen\n"},
		"with a volume at /run": {nil, func(c *runtime.ContainerConfig) { volume(t.TempDir(), "/run")(c) }, "echo run", "run\n"},
		"with a terminal":       {nil, func(c *runtime.ContainerConfig) { c.Tty = true }, "tty || true", "not a tty\n"},
	} {
		t.Run(name, func(t *testing.T) {
			edits := []func(*runtime.PodSandboxConfig){hooks(t, prestartKey, shell("a", test.script)), hooks(t, poststopKey, shell("a", test.script))}
			if test.pod != nil {
				edits = append(edits, test.pod)
			}
			p := n.RunPod(t, edits...)
			if test.edit == nil {
				test.edit = func(*runtime.ContainerConfig) {}
			}
			c := p.Run(t, "app", test.edit)
			c.Stop(t, 0)
			r := hookResults(t, c)
			if got, want := outcomes(r), []string{"prestart a succeeded", "poststop a succeeded"}; !slices.Equal(got, want) {
				t.Fatalf("results are %+v", r)
			}
			for _, r := range r {
				if strings.TrimSuffix(r.Output, "\n") != strings.TrimSuffix(test.want, "\n") {
					t.Errorf("the %s hook saw %q", r.Stage, r.Output)
				}
			}
		})
	}
}

// The limits of poststop hooks are the container's last ones, in a cgroup of their own that is the pod's too.
func TestPoststopHooksHaveTheContainersLimits(t *testing.T) {
	n := harness.Start(t)
	dir := t.TempDir()
	p := n.RunPod(t, hooks(t, poststopKey, shell("slow", "touch /witness/begun; while [ ! -e /witness/go ]; do sleep 0.05; done")))
	c := p.Run(t, "app", witness(dir), harness.Sh("exec sleep 1000"), func(c *runtime.ContainerConfig) { c.Linux.Resources.MemoryLimitInBytes = 64 << 20 })
	if _, err := n.Daemon.Runtime.UpdateContainerResources(harness.Context(t), &runtime.UpdateContainerResourcesRequest{
		ContainerId: c.ID, Linux: &runtime.LinuxContainerResources{MemoryLimitInBytes: 96 << 20},
	}); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := n.Daemon.Runtime.StopContainer(harness.Context(t), &runtime.StopContainerRequest{ContainerId: c.ID})
		ended <- err
	}()
	harness.Eventually(t, "the hook runs", func() bool { _, err := os.Stat(filepath.Join(dir, "begun")); return err == nil })
	all, err := n.Cgroups()
	if err != nil {
		t.Fatal(err)
	}
	var limits []string
	for _, cgroup := range all {
		if !strings.Contains(filepath.Base(cgroup), c.ID+"-poststop") {
			continue
		}
		for _, file := range []string{"memory.limit_in_bytes", "memory.max"} {
			if b, err := os.ReadFile(filepath.Join(cgroup, file)); err == nil {
				limits = append(limits, strings.TrimSpace(string(b)))
			}
		}
	}
	if len(limits) != 1 || limits[0] != strconv.Itoa(96<<20) {
		t.Errorf("the limits are %q", limits)
	}
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
