package integration

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// everywhere declares a hook for each stage, which notes its name.
func (h *hostHooks) everywhere(t *testing.T) {
	t.Helper()
	for _, stage := range []string{"prestart", "createRuntime", "createContainer", "poststart", "poststop"} {
		h.declare(t, stage+".json", declaration(always, h.program, []string{stage}, stage))
	}
	h.declare(t, "startContainer.json", declaration(always, "/bin/sh", []string{"-c", `id -u > /inside; readlink /proc/self/ns/user >> /inside; readlink /proc/self/ns/pid >> /inside`}, "startContainer"))
}

func TestNodeHooksInPodsOfAllKinds(t *testing.T) {
	h := withHooks(t)
	h.everywhere(t)
	for name, edit := range map[string]func(*runtime.PodSandboxConfig){
		"user namespace": func(c *runtime.PodSandboxConfig) {
			ids := []*runtime.IDMapping{{HostId: 400000, ContainerId: 0, Length: 65536}}
			c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &runtime.UserNamespace{Mode: runtime.NamespaceMode_POD, Uids: ids, Gids: ids}
		},
		"shared pid namespace": func(c *runtime.PodSandboxConfig) {
			c.Linux.SecurityContext.NamespaceOptions.Pid = runtime.NamespaceMode_POD
		},
		"the node's namespaces": func(c *runtime.PodSandboxConfig) {
			c.Linux.SecurityContext.NamespaceOptions = &runtime.NamespaceOption{Network: runtime.NamespaceMode_NODE, Pid: runtime.NamespaceMode_NODE, Ipc: runtime.NamespaceMode_NODE}
			c.Hostname = ""
		},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "user namespace" { // the program writes as the container's root there
				f, err := os.OpenFile(h.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o666)
				if err != nil {
					t.Fatal(err)
				}
				if err := errors.Join(f.Chmod(0o666), f.Close()); err != nil {
					t.Fatal(err)
				}
				for dir := filepath.Dir(h.log); dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
					if err := os.Chmod(dir, 0o755); err != nil {
						t.Fatal(err)
					}
				}
			}
			p := h.RunPod(t, edit)
			c := p.Run(t, "app", func(c *runtime.ContainerConfig) {
				c.Linux.SecurityContext.RunAsUser = &runtime.Int64Value{Value: 0}
			})
			own := c.Exec(t, "sh", "-c", "id -u; readlink /proc/self/ns/user; readlink /proc/self/ns/pid")
			if got := c.Exec(t, "cat", "/inside"); got != own {
				t.Errorf("startContainer sees %q, the program %q", got, own)
			}
			pid := pidOf(t, c)
			c.Stop(t, 0)
			p.Remove(t)
			all := h.notes(t)
			if want := []string{"prestart", "createRuntime", "createContainer", "poststart", "poststop"}; !slices.Equal(said(all), want) {
				t.Fatalf("%q, want %q", said(all), want)
			}
			inside := all[2]
			if inside.Mnt == ownNamespace(t, "mnt") || (inside.Net == ownNamespace(t, "net")) != (name == "the node's namespaces") {
				t.Errorf("createContainer sees %s, %s", inside.Mnt, inside.Net)
			}
			switch name {
			case "user namespace":
				if inside.State.Pid != 1 {
					t.Errorf("pid %d", inside.State.Pid)
				}
			case "shared pid namespace":
				if inside.State.Pid <= 1 {
					t.Errorf("pid %d", inside.State.Pid)
				}
			default:
				if inside.State.Pid != pid {
					t.Errorf("pid %d, want %d", inside.State.Pid, pid)
				}
			}
		})
	}
}

// A startContainer hook has the rights of the container's program and no others.
func TestAStartContainerHookIsTheContainersUser(t *testing.T) {
	h := withHooks(t)
	h.declare(t, "inside.json", declaration(always, "/bin/sh", []string{"-c", `{ id; grep -E "^(Cap|NoNew|Seccomp:)" /proc/self/status; cat /proc/self/cgroup; } > /tmp/inside`}, "startContainer"))
	c := h.RunPod(t).Run(t, "app", func(c *runtime.ContainerConfig) {
		s := c.Linux.SecurityContext
		s.RunAsUser, s.NoNewPrivs = &runtime.Int64Value{Value: 1234}, true
		s.Capabilities = &runtime.Capability{DropCapabilities: []string{"ALL"}}
		s.Seccomp = &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_RuntimeDefault}
		c.Mounts = []*runtime.Mount{{HostPath: openDir(t), ContainerPath: "/tmp"}}
	})
	own := c.Exec(t, "sh", "-c", `id; grep -E "^(Cap|NoNew|Seccomp:)" /proc/self/status; cat /proc/self/cgroup`)
	if got := c.Exec(t, "cat", "/tmp/inside"); got != own || !strings.Contains(got, "uid=1234") {
		t.Errorf("%s\nthe program's are\n%s", got, own)
	}
}

func openDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestManyContainersWithNodeHooksAtOnce(t *testing.T) {
	const pods, each = 5, 8
	h := withHooks(t)
	h.everywhere(t)
	h.Pull(t, harness.Busybox)
	var all []*harness.Pod
	for range pods {
		all = append(all, h.RunPod(t))
	}
	var wg sync.WaitGroup
	for _, p := range all {
		for i := range each {
			wg.Go(func() {
				id, err := p.TryCreate(harness.Context(t), p.ContainerConfig(fmt.Sprintf("app%d", i)))
				if err == nil {
					_, err = h.Daemon.Runtime.StartContainer(harness.Context(t), &runtime.StartContainerRequest{ContainerId: id})
				}
				if err == nil {
					_, err = h.Daemon.Runtime.StopContainer(harness.Context(t), &runtime.StopContainerRequest{ContainerId: id})
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	for _, p := range all {
		p.Remove(t)
	}
	counts := map[string]int{}
	for _, n := range h.notes(t) {
		counts[n.Said+" "+n.State.ID]++
	}
	for run, times := range counts {
		if times != 1 {
			t.Errorf("%s ran %d times", run, times)
		}
	}
	if want := pods * each * 5; len(counts) != want {
		t.Errorf("%d hooks ran, want %d", len(counts), want)
	}
}
