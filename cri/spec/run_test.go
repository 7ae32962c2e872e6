//go:build linux && cgo

package spec

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	_ "github.com/opencontainers/cgroups/devices"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	_ "github.com/opencontainers/runc/libcontainer/nsenter"
	"github.com/opencontainers/runc/libcontainer/specconv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/cri/model"
	"github.com/cri-pouch/cri-pouch/internal/mountpoint"
	"github.com/cri-pouch/cri-pouch/network"
)

// libcontainer starts the running program again as the container's init.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "init" {
		libcontainer.Init()
		os.Exit(1)
	}
	// A test that spoils its thread cannot then have the main one, which never ends.
	goruntime.LockOSThread()
	os.Exit(m.Run())
}

// pod gives namespaces of the given kinds, alive until the test ends.
func pod(t *testing.T, in *Input, flags uintptr) {
	t.Helper()
	attr := &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: syscall.SIGKILL}
	if flags&unix.CLONE_NEWUSER != 0 {
		ids := []syscall.SysProcIDMap{{HostID: 65536, Size: 65536}}
		attr.UidMappings, attr.GidMappings = ids, ids
		own := []model.IDMapping{{HostID: 65536, Length: 65536}}
		in.Sandbox.Namespaces.User = &model.UserNamespace{UIDs: own, GIDs: own}
	}
	c := exec.Command("/usr/bin/busybox", "cat")
	c.SysProcAttr = attr
	hold, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = hold.Close(); _ = c.Wait() })
	ns := func(flag uintptr, name string) string {
		if flags&flag == 0 {
			return ""
		}
		return fmt.Sprintf("/proc/%d/ns/%s", c.Process.Pid, name)
	}
	in.Namespaces = network.Namespaces{
		Net: ns(unix.CLONE_NEWNET, "net"), IPC: ns(unix.CLONE_NEWIPC, "ipc"), UTS: ns(unix.CLONE_NEWUTS, "uts"), User: ns(unix.CLONE_NEWUSER, "user"),
	}
}

// runnable is a container of busybox that can really be started.
func runnable(t *testing.T) Input {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("running a container needs root")
	}
	if _, err := os.Stat("/usr/bin/busybox"); err != nil {
		t.Skip("running a container needs busybox-static")
	}
	in := input(t)
	for p := in.Rootfs; p != "/"; p = filepath.Dir(p) { // a user namespace's root must get there
		if err := os.Chmod(p, 0o755); err != nil && filepath.Dir(p) != "/" {
			t.Fatal(err)
		}
		if filepath.Dir(p) == os.TempDir() {
			break
		}
	}
	b, err := os.ReadFile("/usr/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(in.Rootfs, "bin/busybox"), string(b))
	if err := os.Chmod(filepath.Join(in.Rootfs, "bin/busybox"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("busybox", filepath.Join(in.Rootfs, "bin/sh")); err != nil {
		t.Fatal(err)
	}
	in.ID = fmt.Sprintf("spec-%d-%s", os.Getpid(), strings.NewReplacer("/", "-", ",", "", "'", "").Replace(t.Name()))
	in.Sandbox.CgroupParent = fmt.Sprintf("/cri-pouch-spec-test-%d", os.Getpid())
	t.Cleanup(func() { removeParent(t, in.Sandbox.CgroupParent) })
	files := t.TempDir()
	write(t, filepath.Join(files, "hosts"), "hosts of the pod\n")
	in.Files = network.Files{Hosts: filepath.Join(files, "hosts")}
	in.Shm = "/dev/shm"
	return in
}

// removeParent takes away the cgroup that all containers of the test were in.
func removeParent(t *testing.T, parent string) {
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + parent)
	for _, d := range append(dirs, "/sys/fs/cgroup"+parent) {
		if err := os.Remove(d); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("cgroup is left: %v", err)
		}
	}
}

// run starts the container with libcontainer, as the shim does, and gives what it wrote.
func run(t *testing.T, sp *specs.Spec, id string) (string, error) {
	t.Helper()
	sp.Linux.Seccomp = nil       // this program has no libseccomp in it; profiles are tried with the shim
	sp.Process.OOMScoreAdj = nil // where the host refuses a lower one it is the shim that goes without
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{CgroupName: id, Spec: sp})
	if err != nil {
		return "", err
	}
	c, err := libcontainer.Create(t.TempDir(), id, config)
	if err != nil {
		return "", err
	}
	defer func() {
		if err := c.Destroy(); err != nil {
			t.Errorf("destroy: %v", err)
		}
	}()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p := &libcontainer.Process{
		Args: sp.Process.Args, Env: sp.Process.Env, Cwd: sp.Process.Cwd, UID: int(sp.Process.User.UID), GID: int(sp.Process.User.GID),
		Stdout: w, Stderr: w, Init: true, NoNewPrivileges: &sp.Process.NoNewPrivileges,
	}
	for _, g := range sp.Process.User.AdditionalGids {
		p.AdditionalGroups = append(p.AdditionalGroups, int(g))
	}
	if k := sp.Process.Capabilities; k != nil {
		p.Capabilities = &configs.Capabilities{Bounding: k.Bounding, Effective: k.Effective, Permitted: k.Permitted, Inheritable: k.Inheritable, Ambient: k.Ambient}
	}
	err = c.Run(p)
	_ = w.Close()
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	_ = r.SetReadDeadline(time.Now().Add(time.Minute))
	_, readErr := io.Copy(&out, r)
	if readErr != nil {
		_ = c.Signal(unix.SIGKILL)
	}
	_, waitErr := p.Wait()
	return out.String(), errors.Join(readErr, waitErr)
}

func TestSpecificationsRun(t *testing.T) {
	const usual = unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS
	host := model.Namespaces{Network: model.ModeNode, IPC: model.ModeNode, PID: model.ModeContainer}
	for name, tc := range map[string]struct {
		flags  uintptr
		edit   func(*Input)
		script string
		want   []string
		not    []string
	}{
		"plain": {usual, func(in *Input) {}, `cat /etc/hosts; echo pid $$; touch /x && echo wrote; touch /sys/x; ls /sys/fs/cgroup; cat /proc/self/status`,
			[]string{"hosts of the pod", "pid 1\n", "wrote", "Groups:\t0", "CapEff:\t00000000a80425fb", "CapBnd:\t00000000a80425fb", "CapInh:\t0000000000000000"}, nil},
		"as a user, read-only, without rights": {usual, func(in *Input) {
			in.Image.Config.User = "web"
			in.Config.Security.ReadonlyRootfs, in.Config.Security.NoNewPrivs = true, true
			in.Config.Security.DropCapabilities = []string{"ALL"}
			in.Config.Security.MaskedPaths = []string{"/proc/version"}
		}, `cat /proc/self/status /proc/version; touch /tmp/x || echo refused`,
			[]string{"Uid:\t1000", "Gid:\t2000", "Groups:\t2000 3000 3001", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "refused"}, []string{"Linux version"}},
		"privileged": {usual, func(in *Input) {
			in.Sandbox.Privileged, in.Config.Security.Privileged = true, true
		}, `ls /dev; grep ' /sys ' /proc/mounts`, []string{"null", "sysfs /sys sysfs rw"}, nil},
		"on the node's network and IPC": {0, func(in *Input) {
			in.Sandbox.Namespaces, in.Config.Security.Namespaces, in.Shm = host, host, ""
		}, `readlink /proc/self/ns/net; echo ran`, []string{"ran"}, nil},
		"in a user namespace": {usual | unix.CLONE_NEWUSER, func(in *Input) {},
			`cat /proc/self/uid_map; grep ' /sys ' /proc/mounts; grep devpts /proc/mounts; echo ran`, []string{"65536", "sysfs", "gid=", "ran"}, nil},
		"in a user namespace on the node's network": {unix.CLONE_NEWUSER, func(in *Input) {
			u := in.Sandbox.Namespaces.User
			in.Sandbox.Namespaces, in.Config.Security.Namespaces, in.Shm = host, host, ""
			in.Sandbox.Namespaces.User = u
		}, `grep ' /sys ' /proc/mounts; echo ran`, []string{"/sys sysfs ro", "ran"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			in := runnable(t)
			pod(t, &in, tc.flags)
			tc.edit(&in)
			in.Config.Command = []string{"/bin/busybox", "sh", "-c", tc.script}
			n, err := DetectNode()
			if err != nil {
				t.Fatal(err)
			}
			out, err := NewBuilder(n).Build(context.Background(), in)
			if err != nil {
				t.Fatal(err)
			}
			if tc.flags&unix.CLONE_NEWUSER != 0 {
				own(t, in.Rootfs, 65536)
			}
			got, err := run(t, out.Spec, in.ID)
			t.Logf("%s", got)
			if err != nil && got == "" {
				t.Fatal(err)
			}
			for _, w := range tc.want {
				if !strings.Contains(got, w) {
					t.Errorf("no %q in the output", w)
				}
			}
			for _, w := range tc.not {
				if strings.Contains(got, w) {
					t.Errorf("%q in the output", w)
				}
			}
		})
	}
}

func own(t *testing.T, root string, id int) {
	t.Helper()
	if err := filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(p, id, id))
	}); err != nil {
		t.Fatal(err)
	}
}

func TestHolderRuns(t *testing.T) {
	in := runnable(t)
	pod(t, &in, unix.CLONE_NEWNET|unix.CLONE_NEWIPC|unix.CLONE_NEWUTS|unix.CLONE_NEWUSER)
	layer, root := filepath.Join(in.Rootfs, "layer"), filepath.Join(in.Rootfs, "sealed")
	for _, dir := range []string{"proc", "dev"} {
		if err := os.MkdirAll(filepath.Join(layer, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	program, err := os.ReadFile("/usr/bin/busybox")
	if err == nil { // which goes by its name
		err = os.WriteFile(filepath.Join(layer, "busybox"), program, 0o755)
	}
	if err == nil {
		err = mountpoint.Sealed(layer, root)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mountpoint.Clear(root); err != nil {
			t.Error(err)
		}
	})
	n, err := DetectNode()
	if err != nil {
		t.Fatal(err)
	}
	sp, err := NewBuilder(n).Holder(HolderInput{
		SandboxID: in.ID, Sandbox: in.Sandbox, Rootfs: root, Namespaces: in.Namespaces,
	})
	if err != nil {
		t.Fatal(err)
	}
	sp.Process.Args = []string{"/busybox", "sh", "-c", "/busybox cat /proc/self/status; /busybox touch /x || echo refused"}
	got, err := run(t, sp, in.ID)
	t.Logf("%s", got)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []string{"Uid:\t65535", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "refused"} {
		if !strings.Contains(got, w) {
			t.Errorf("no %q in the output", w)
		}
	}
	left, err := os.ReadDir(layer)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range left {
		names = append(names, e.Name())
	}
	if !slices.Equal(names, []string{"busybox", "dev", "proc"}) {
		t.Errorf("the folder has %v", names)
	}
}

func TestMountsOfTheHostRun(t *testing.T) {
	in := runnable(t)
	pod(t, &in, unix.CLONE_NEWNET|unix.CLONE_NEWIPC|unix.CLONE_NEWUTS)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	sub := filepath.Join(dir, "sub")
	if err := os.Mkdir(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", sub, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(sub, unix.MNT_DETACH) })
	in.Config.Mounts = []model.Mount{
		{ContainerPath: "/rw", HostPath: dir},
		{ContainerPath: "/ro", HostPath: dir, Readonly: true},
		{ContainerPath: "/rro", HostPath: dir, Readonly: true, RecursiveReadOnly: true},
		{ContainerPath: "/slave", HostPath: dir, Propagation: model.PropagationHostToContainer},
		{ContainerPath: "/shared", HostPath: dir, Propagation: model.PropagationBidirectional},
	}
	in.Config.Security.AddCapabilities = []string{"CAP_SYS_ADMIN"}
	in.Config.Command = []string{"/bin/busybox", "sh", "-c", `for d in rw rw/sub ro ro/sub rro rro/sub; do
		if touch /$d/x 2>/dev/null; then echo $d: written; else echo $d: refused; fi; done
		mkdir /shared/new && mount -t tmpfs tmpfs /shared/new && touch /shared/new/seen
		test -e /slave/new/seen && echo slave: came; test -e /rw/new/seen || echo private: stayed away`}
	n, err := DetectNode()
	if err != nil {
		t.Fatal(err)
	}
	out, err := NewBuilder(n).Build(context.Background(), in)
	if err != nil {
		t.Fatal(err)
	}
	got, err := run(t, out.Spec, in.ID)
	t.Cleanup(func() { _ = unix.Unmount(filepath.Join(dir, "new"), unix.MNT_DETACH) })
	if err != nil {
		t.Fatalf("%v: %s", err, got)
	}
	for _, w := range []string{
		"rw: written", "rw/sub: written", "ro: refused", "ro/sub: written", "rro: refused", "rro/sub: refused", "slave: came", "private: stayed away",
	} {
		if !strings.Contains("\n"+got, "\n"+w+"\n") {
			t.Errorf("no %q in the output: %s", w, got)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "new/seen")); err != nil {
		t.Errorf("the container's mount did not reach the node: %v", err)
	}
}
