package spec

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/cri/model"
)

func mode(m *specs.Mount) string {
	for _, o := range []string{"ro", "rw", "rro"} {
		if slices.Contains(m.Options, o) {
			return o
		}
	}
	return ""
}

func TestKernelMountsFitTheNamespaces(t *testing.T) {
	user := &model.UserNamespace{UIDs: []model.IDMapping{{HostID: 65536, Length: 65536}}, GIDs: []model.IDMapping{{HostID: 65536, Length: 65536}}}
	in := input(t)
	sp := build(t, testNode(), in).Spec
	for at, want := range map[string][2]string{
		"/proc": {"proc", ""}, "/dev": {"tmpfs", ""}, "/dev/pts": {"devpts", ""}, "/dev/mqueue": {"mqueue", ""},
		"/sys": {"sysfs", "ro"}, "/sys/fs/cgroup": {"cgroup", "ro"}, "/dev/shm": {"bind", "rw"}, "/etc/hosts": {"bind", "rw"},
	} {
		m := mountAt(sp, at)
		if m == nil || m.Type != want[0] || mode(m) != want[1] {
			t.Errorf("%s is %+v, want %v", at, m, want)
		}
	}
	if m := mountAt(sp, "/dev/shm"); m.Source != "/run/shm-of-s1" {
		t.Errorf("/dev/shm is %s", m.Source)
	}
	in.Sandbox.Privileged, in.Config.Security.Privileged, in.Config.Security.ReadonlyRootfs = true, true, true
	sp = build(t, testNode(), in).Spec
	if mode(mountAt(sp, "/sys")) != "rw" || mode(mountAt(sp, "/sys/fs/cgroup")) != "rw" {
		t.Error("a privileged container cannot write /sys")
	}
	node := testNode()
	node.CgroupFlags = []string{"nsdelegate"}
	for _, v2 := range []bool{false, true} {
		node.CgroupV2 = v2
		if m := mountAt(build(t, node, in).Spec, "/sys/fs/cgroup"); slices.Contains(m.Options, "nsdelegate") != v2 {
			t.Errorf("cgroup v2 %v: the mount of a privileged container would change the node's flags: %v", v2, m.Options)
		}
	}
	if mode(mountAt(sp, "/etc/hosts")) != "ro" || !sp.Root.Readonly {
		t.Error("the root filesystem is not read-only")
	}
	in = input(t)
	in.Sandbox.Namespaces.User, in.Namespaces.User = user, "/ns/user"
	if m := mountAt(build(t, testNode(), in).Spec, "/sys"); m.Type != "sysfs" {
		t.Errorf("/sys is %+v: the user namespace owns the network", m)
	}
	in.Sandbox.Namespaces.Network, in.Config.Security.Namespaces.Network = model.ModeNode, model.ModeNode
	in.Sandbox.Namespaces.IPC, in.Config.Security.Namespaces.IPC, in.Shm = model.ModeNode, model.ModeNode, ""
	b := NewBuilder(testNode())
	b.host.dev = t.TempDir()
	if m := mountAt(&specs.Spec{Mounts: b.kernelMounts(in)}, "/dev/mqueue"); m != nil {
		t.Errorf("/dev/mqueue is %+v, which the node does not have", m)
	}
	if err := os.Mkdir(filepath.Join(b.host.dev, "mqueue"), 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := b.Build(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	sp = out.Spec
	if m := mountAt(sp, "/sys"); m.Type != "bind" || mode(m) != "ro" {
		t.Errorf("/sys is %+v, want a read-only bind: the network is the node's", m)
	}
	if mountAt(sp, "/dev/mqueue").Type != "bind" || mountAt(sp, "/dev/shm").Source != "/dev/shm" {
		t.Error("IPC of the node is not seen")
	}
}

func TestTerminalGroupNeedsAMapping(t *testing.T) {
	for n, want := range map[uint32]bool{5: false, 6: true} {
		u := &model.UserNamespace{GIDs: []model.IDMapping{{HostID: 65536, Length: n}}}
		if got := slices.Contains(devpts(u), "gid=5"); got != want {
			t.Errorf("%d groups: gid=5 is %v", n, got)
		}
	}
}

func TestMountsOfTheRequestCoverOurs(t *testing.T) {
	dir := t.TempDir()
	in := input(t)
	in.Config.Mounts = []model.Mount{
		{ContainerPath: "/a/b/c", HostPath: dir}, {ContainerPath: "/a", HostPath: dir, Readonly: true},
		{ContainerPath: "/etc/hosts", HostPath: dir}, {ContainerPath: "/etc", HostPath: dir}, {ContainerPath: "/dev", HostPath: dir},
		{ContainerPath: "/dev/termination-log", HostPath: dir}, {ContainerPath: "/a", HostPath: dir, RecursiveReadOnly: true, Readonly: true},
	}
	sp := build(t, testNode(), in).Spec
	var order []string
	for _, m := range sp.Mounts {
		order = append(order, m.Destination)
	}
	at := func(p string) int { return slices.Index(order, p) }
	if at("/a") > at("/a/b/c") || at("/etc") > at("/etc/resolv.conf") || at("/sys") > at("/sys/fs/cgroup") || at("/dev") > at("/dev/termination-log") {
		t.Errorf("a mount hides one below it: %v", order)
	}
	for _, gone := range []string{"/dev/pts", "/dev/shm", "/dev/mqueue"} {
		if at(gone) >= 0 {
			t.Errorf("%s is mounted over the request's /dev", gone)
		}
	}
	slices.Sort(order)
	if len(slices.Compact(slices.Clone(order))) != len(order) {
		t.Errorf("two mounts at one place: %v", order)
	}
	if m := mountAt(sp, "/etc/hosts"); m.Source != dir {
		t.Errorf("/etc/hosts is %s, want the request's", m.Source)
	}
	if m := mountAt(sp, "/a"); mode(m) != "rro" {
		t.Errorf("/a is %v, want the later, recursively read-only one", m.Options)
	}
}

func TestHostPathIsResolvedOrRefused(t *testing.T) {
	dir := t.TempDir()
	real := filepath.Join(dir, "real")
	write(t, filepath.Join(real, "f"), "x")
	if err := os.Symlink("real", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	in := input(t)
	in.Config.Mounts = []model.Mount{{ContainerPath: "/m", HostPath: filepath.Join(dir, "link"), UIDMappings: []model.IDMapping{{HostID: 7, Length: 1}}}}
	m := mountAt(build(t, testNode(), in).Spec, "/m")
	if m.Source != real || m.UIDMappings[0].HostID != 7 {
		t.Errorf("mount %+v, want the real folder %s", m, real)
	}
	missing := filepath.Join(dir, "a/b")
	in.Config.Mounts[0].HostPath = missing
	wantError(t, testNode(), in, errdefs.IsFailedPrecondition, missing)
	if _, err := os.Lstat(filepath.Join(dir, "a")); !os.IsNotExist(err) {
		t.Errorf("a refused mount made its host path: %v", err)
	}
	n := testNode()
	n.CreateMissingHostPaths = true
	build(t, n, in)
	if st, err := os.Stat(missing); err != nil || !st.IsDir() {
		t.Errorf("host path was not made: %v", err)
	}
	nowhere := filepath.Join(dir, "nowhere")
	if err := os.Symlink(filepath.Join(dir, "absent"), nowhere); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{nowhere, filepath.Join(nowhere, "a/b")} {
		in.Config.Mounts[0].HostPath = p
		wantError(t, n, in, errdefs.IsFailedPrecondition, nowhere+" is a link that leads nowhere")
	}
	if _, err := os.Lstat(filepath.Join(dir, "absent")); !os.IsNotExist(err) {
		t.Errorf("a folder was made where a link leads: %v", err)
	}
	in.Config.Mounts[0].HostPath = filepath.Join(real, "f", "below-a-file")
	wantError(t, n, in, errdefs.IsFailedPrecondition, "not a directory")
}

// withMounts runs fn on a thread with a mount namespace of its own, all of it private; the thread ends with fn.
func withMounts(t *testing.T, fn func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread dies
		err := unix.Unshare(unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		if err == nil {
			fn()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestPropagationNeedsAMountThatPassesIt(t *testing.T) {
	dir := t.TempDir()
	in := input(t)
	result := map[string]string{}
	withMounts(t, func() {
		try := func(name string, p model.Propagation) {
			sp := &specs.Spec{Linux: &specs.Linux{}}
			opt, err := propagate(dir, p, sp, "/proc/thread-self/mountinfo")
			if err != nil {
				result[name] = err.Error()
				return
			}
			result[name] = opt + " " + sp.Linux.RootfsPropagation
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
			result["mount"] = err.Error()
			return
		}
		defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
		try("private as private", model.PropagationPrivate)
		try("private as rslave", model.PropagationHostToContainer)
		try("private as rshared", model.PropagationBidirectional)
		_ = unix.Mount("", dir, "", unix.MS_SHARED, "")
		try("shared as rslave", model.PropagationHostToContainer)
		try("shared as rshared", model.PropagationBidirectional)
	})
	for name, want := range map[string]string{
		"private as private": "rprivate ", "private as rslave": "is private", "private as rshared": "is not shared",
		"shared as rslave": "rslave rslave", "shared as rshared": "rshared rshared",
	} {
		if !strings.Contains(result[name], want) {
			t.Errorf("%s: %q, want %q", name, result[name], want)
		}
	}
	in.Sandbox.Namespaces.User = &model.UserNamespace{}
	in.Namespaces.User = "/ns/user"
	in.Config.Mounts = []model.Mount{{ContainerPath: "/m", HostPath: dir, Propagation: model.PropagationBidirectional}}
	wantError(t, testNode(), in, errdefs.IsInvalidArgument, "user namespace")
}
