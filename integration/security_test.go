package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
	"github.com/cri-pouch/cri-pouch/internal/cgrouptree"
)

// seen is what a script in a container with this security context prints, and its exit code.
type seen func(t *testing.T, script string, edit func(*runtime.LinuxContainerSecurityContext, *runtime.ContainerConfig)) string

func securityLab(t *testing.T) (*harness.Pod, seen) {
	t.Helper()
	p := harness.Start(t).RunPod(t)
	number := 0
	return p, func(t *testing.T, script string, edit func(*runtime.LinuxContainerSecurityContext, *runtime.ContainerConfig)) string {
		t.Helper()
		number++
		name := "c" + itoa(number)
		text, code := p.RunToEnd(t, name, harness.Sh(script), func(c *runtime.ContainerConfig) { edit(c.Linux.SecurityContext, c) })
		if code != 0 {
			t.Errorf("%q exits with %d: %s", script, code, text)
		}
		return strings.TrimSuffix(text, "\n")
	}
}

func TestUsersAndGroups(t *testing.T) {
	_, see := securityLab(t)
	const ids = "id -u; id -g; id -G"
	for name, x := range map[string]struct {
		edit func(*runtime.LinuxContainerSecurityContext, *runtime.ContainerConfig)
		want string
	}{
		"root": {func(*runtime.LinuxContainerSecurityContext, *runtime.ContainerConfig) {}, "0\n0\n0"},
		"a number": {func(s *runtime.LinuxContainerSecurityContext, _ *runtime.ContainerConfig) {
			s.RunAsUser = &runtime.Int64Value{Value: 2000}
		}, "2000\n0\n0"},
		"a name": {func(s *runtime.LinuxContainerSecurityContext, _ *runtime.ContainerConfig) { s.RunAsUsername = "app" }, "1000\n1000\n1000 1500"},
		"number and group": {func(s *runtime.LinuxContainerSecurityContext, _ *runtime.ContainerConfig) {
			s.RunAsUser, s.RunAsGroup = &runtime.Int64Value{Value: 1000}, &runtime.Int64Value{Value: 3000}
		}, "1000\n3000\n3000 1500"},
		"merged groups": {func(s *runtime.LinuxContainerSecurityContext, _ *runtime.ContainerConfig) {
			s.RunAsUser, s.SupplementalGroups = &runtime.Int64Value{Value: 1000}, []int64{4000}
		}, "1000\n1000\n1000 1500 4000"},
		"only these groups": {func(s *runtime.LinuxContainerSecurityContext, _ *runtime.ContainerConfig) {
			s.RunAsUser, s.SupplementalGroups = &runtime.Int64Value{Value: 1000}, []int64{4000}
			s.SupplementalGroupsPolicy = runtime.SupplementalGroupsPolicy_Strict
		}, "1000\n1000\n1000 4000"},
	} {
		t.Run(name, func(t *testing.T) {
			got := strings.Split(see(t, ids, x.edit), "\n")
			want := strings.Split(x.want, "\n")
			if len(got) != 3 || got[0] != want[0] || got[1] != want[1] || !sameWords(got[2], want[2]) {
				t.Errorf("id says %q, wanted %q", got, want)
			}
		})
	}
}

// sameWords compares two lists of words in any order; words may come twice.
func sameWords(a, b string) bool {
	set := func(s string) map[string]bool {
		m := map[string]bool{}
		for _, w := range strings.Fields(s) {
			m[w] = true
		}
		return m
	}
	x, y := set(a), set(b)
	for w := range x {
		if !y[w] {
			return false
		}
	}
	return len(x) == len(y)
}

func TestWhatAProcessMayDo(t *testing.T) {
	_, see := securityLab(t)
	status := func(t *testing.T, field string, edit func(*runtime.LinuxContainerSecurityContext, *runtime.ContainerConfig)) string {
		t.Helper()
		return see(t, "grep ^"+field+": /proc/self/status | cut -f2", edit)
	}
	profile := func(p runtime.SecurityProfile_ProfileType) func(*runtime.LinuxContainerSecurityContext, *runtime.ContainerConfig) {
		return func(s *runtime.LinuxContainerSecurityContext, _ *runtime.ContainerConfig) {
			s.Seccomp = &runtime.SecurityProfile{ProfileType: p}
		}
	}
	for name, x := range map[string]struct {
		field string
		edit  func(*runtime.LinuxContainerSecurityContext, *runtime.ContainerConfig)
		want  string
	}{
		"default capabilities": {"CapEff", func(*runtime.LinuxContainerSecurityContext, *runtime.ContainerConfig) {}, "00000000a80425fb"},
		"none": {"CapEff", func(s *runtime.LinuxContainerSecurityContext, _ *runtime.ContainerConfig) {
			s.Capabilities = &runtime.Capability{DropCapabilities: []string{"ALL"}}
		}, "0000000000000000"},
		"none but one": {"CapBnd", func(s *runtime.LinuxContainerSecurityContext, _ *runtime.ContainerConfig) {
			s.Capabilities = &runtime.Capability{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"NET_BIND_SERVICE"}}
		}, "0000000000000400"},
		"not root": {"CapEff", func(s *runtime.LinuxContainerSecurityContext, _ *runtime.ContainerConfig) {
			s.RunAsUser = &runtime.Int64Value{Value: 1000}
		}, "0000000000000000"},
		"ambient": {"CapAmb", func(s *runtime.LinuxContainerSecurityContext, _ *runtime.ContainerConfig) {
			s.RunAsUser = &runtime.Int64Value{Value: 1000}
			s.Capabilities = &runtime.Capability{AddAmbientCapabilities: []string{"NET_BIND_SERVICE"}}
		}, "0000000000000400"},
		"new privileges":     {"NoNewPrivs", func(*runtime.LinuxContainerSecurityContext, *runtime.ContainerConfig) {}, "0"},
		"no new privileges":  {"NoNewPrivs", func(s *runtime.LinuxContainerSecurityContext, _ *runtime.ContainerConfig) { s.NoNewPrivs = true }, "1"},
		"default seccomp":    {"Seccomp", profile(runtime.SecurityProfile_RuntimeDefault), "2"},
		"unconfined seccomp": {"Seccomp", profile(runtime.SecurityProfile_Unconfined), "0"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := status(t, x.field, x.edit); got != x.want {
				t.Errorf("%s is %q, wanted %q", x.field, got, x.want)
			}
		})
	}
	t.Run("a profile of the node", func(t *testing.T) {
		b, err := json.Marshal(map[string]any{"defaultAction": "SCMP_ACT_ALLOW",
			"syscalls": []map[string]any{{"names": []string{"mkdir", "mkdirat"}, "action": "SCMP_ACT_ERRNO"}}})
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "profile.json")
		if err := os.WriteFile(file, b, 0o644); err != nil {
			t.Fatal(err)
		}
		got := see(t, "mkdir /tmp/x 2>/dev/null && echo made; touch /tmp/y && echo touched", func(s *runtime.LinuxContainerSecurityContext, _ *runtime.ContainerConfig) {
			s.Seccomp = &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_Localhost, LocalhostRef: file}
		})
		if got != "touched" {
			t.Errorf("it says %q", got)
		}
	})
}

func TestWhatIsMountedHow(t *testing.T) {
	p, see := securityLab(t)
	t.Run("masked and read-only paths", func(t *testing.T) {
		got := see(t, "wc -c < /proc/timer_list; ls /proc/acpi 2>/dev/null | wc -l; (echo 1 > /proc/sys/kernel/panic) 2>/dev/null || echo refused", func(s *runtime.LinuxContainerSecurityContext, _ *runtime.ContainerConfig) {
			s.MaskedPaths, s.ReadonlyPaths = []string{"/proc/timer_list", "/proc/acpi"}, []string{"/proc/sys"}
		})
		if !strings.HasPrefix(got, "0\n0\n") || !strings.HasSuffix(got, "refused") {
			t.Errorf("it says %q", got)
		}
	})
	t.Run("the pod's files have a bound", func(t *testing.T) { // they are on the node's tmpfs, which everything there needs
		got := see(t, "for f in hosts resolv.conf hostname; do head -c 8000000 /dev/zero 2>/dev/null >>/etc/$f || echo $f is full; done", func(*runtime.LinuxContainerSecurityContext, *runtime.ContainerConfig) {})
		if got != "hosts is full\nresolv.conf is full\nhostname is full" {
			t.Errorf("it says %q", got)
		}
	})
	t.Run("read-only root", func(t *testing.T) {
		if got := see(t, "touch /x 2>/dev/null || echo refused", func(s *runtime.LinuxContainerSecurityContext, _ *runtime.ContainerConfig) { s.ReadonlyRootfs = true }); got != "refused" {
			t.Errorf("it says %q", got)
		}
	})
	t.Run("a device", func(t *testing.T) {
		got := see(t, "head -c 3 /dev/lab | wc -c; head -c1 /dev/mem 2>/dev/null || echo none", func(_ *runtime.LinuxContainerSecurityContext, c *runtime.ContainerConfig) {
			c.Devices = []*runtime.Device{{HostPath: "/dev/zero", ContainerPath: "/dev/lab", Permissions: "r"}}
		})
		if got != "3\nnone" {
			t.Errorf("it says %q", got)
		}
	})
	t.Run("an undeclared device is refused by the cgroup", func(t *testing.T) {
		if got := see(t, "mknod /tmp/sda b 8 0 && head -c1 /tmp/sda 2>&1 | grep -c 'not permitted'", func(*runtime.LinuxContainerSecurityContext, *runtime.ContainerConfig) {}); got != "1" {
			t.Errorf("it says %q", got)
		}
	})
	volume := sharedTmpfs(t)
	mount := func(m *runtime.Mount) func(*runtime.LinuxContainerSecurityContext, *runtime.ContainerConfig) {
		m.HostPath, m.ContainerPath = volume, "/data"
		return func(_ *runtime.LinuxContainerSecurityContext, c *runtime.ContainerConfig) {
			c.Mounts = []*runtime.Mount{m}
		}
	}
	const touch = "touch /data/a 2>/dev/null && echo top; touch /data/sub/a 2>/dev/null && echo sub; true"
	for name, x := range map[string]struct {
		m    *runtime.Mount
		want string
	}{
		"read-write":          {&runtime.Mount{}, "top\nsub"},
		"read-only":           {&runtime.Mount{Readonly: true}, "sub"},
		"recursive read-only": {&runtime.Mount{Readonly: true, RecursiveReadOnly: true}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := see(t, touch, mount(x.m)); got != x.want {
				t.Errorf("it says %q, wanted %q", got, x.want)
			}
		})
	}
	t.Run("mounts of the node arrive", func(t *testing.T) {
		c := p.Run(t, "slave", func(c *runtime.ContainerConfig) {
			mount(&runtime.Mount{Propagation: runtime.MountPropagation_PROPAGATION_HOST_TO_CONTAINER})(nil, c)
		})
		d := p.Run(t, "private", func(c *runtime.ContainerConfig) { mount(&runtime.Mount{})(nil, c) })
		late := filepath.Join(volume, "late")
		if err := os.Mkdir(late, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", late, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = unix.Unmount(late, 0) }()
		if got := c.Exec(t, "grep", "-c", " /data/late ", "/proc/mounts"); got != "1\n" {
			t.Errorf("mounts seen: %q", got)
		}
		if got := d.Exec(t, "sh", "-c", "grep -c ' /data/late ' /proc/mounts || true"); got != "0\n" {
			t.Errorf("mounts seen in a container without propagation: %q", got)
		}
		c.Stop(t, 0)
		d.Stop(t, 0)
	})
}

// sharedTmpfs gives a folder of the node that is a shared mount with another one below, sub.
func sharedTmpfs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	sub := filepath.Join(dir, "sub")
	for _, step := range []func() error{
		func() error { return unix.Mount("tmpfs", dir, "tmpfs", 0, "") },
		func() error { return unix.Mount("", dir, "", unix.MS_SHARED, "") },
		func() error { return os.Mkdir(sub, 0o777) },
		func() error { return unix.Mount("tmpfs", sub, "tmpfs", 0, "") },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		_ = unix.Unmount(sub, unix.MNT_DETACH)
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestPrivileged(t *testing.T) {
	n := harness.Start(t)
	before, err := cgrouptree.FindUnified()
	if err != nil {
		t.Fatal(err)
	}
	p := n.RunPod(t, func(c *runtime.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true })
	c := p.Run(t, "app", func(c *runtime.ContainerConfig) { c.Linux.SecurityContext.Privileged = true })
	own, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	bounding := ""
	for line := range strings.Lines(string(own)) {
		if v, ok := strings.CutPrefix(line, "CapBnd:\t"); ok {
			bounding = v
		}
	}
	if got := c.Exec(t, "sh", "-c", "grep ^CapEff: /proc/self/status | cut -f2"); got != bounding {
		t.Errorf("capabilities are %q, the node's %q", got, bounding)
	}
	c.Exec(t, "sh", "-c", "mkdir -p /tmp/m && mount -t tmpfs none /tmp/m && umount /tmp/m")
	// It is in the node's cgroup namespace, where a mount can take nsdelegate, which others rely on, from the whole hierarchy.
	if after, err := cgrouptree.FindUnified(); err != nil || !reflect.DeepEqual(after, before) {
		t.Errorf("the node's cgroup hierarchy is %+v, was %+v: %v", after, before, err)
	}
	unprivileged := n.RunPod(t)
	_, err = unprivileged.TryCreate(harness.Context(t), unprivileged.ContainerConfig("app", func(c *runtime.ContainerConfig) { c.Linux.SecurityContext.Privileged = true }))
	wantError(t, err, "privileged")
}
