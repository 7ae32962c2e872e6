package spec

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-pouch/cri-pouch/cri/model"
	"github.com/cri-pouch/cri-pouch/network"
)

const passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:2000::/srv:/bin/sh\nbroken\n:x:0:0::/:\nhuge:x:4294967296:0::/:\n"
const group = "root:x:0:\nweb:x:2000:\nextra:x:3000:web,other\nmore:x:3001:other,web\nalone:x:3002:\n"

// input is a plain container of a plain pod, with a root filesystem that has accounts.
func input(t *testing.T) Input {
	t.Helper()
	root := t.TempDir()
	write(t, filepath.Join(root, "etc/passwd"), passwd)
	write(t, filepath.Join(root, "etc/group"), group)
	in := Input{
		ID: "c1", SandboxID: "s1", Rootfs: root, Shm: "/run/shm-of-s1",
		Namespaces: network.Namespaces{Net: "/ns/net", IPC: "/ns/ipc", UTS: "/ns/uts"},
		Files:      network.Files{Hosts: "/f/hosts", ResolvConf: "/f/resolv.conf", Hostname: "/f/hostname"},
		Sandbox: model.SandboxConfig{Name: "pod", UID: "u", Namespace: "ns", Hostname: "pod-0", Namespaces: model.Namespaces{
			Network: model.ModePod, IPC: model.ModePod, PID: model.ModeContainer,
		}},
		Config: model.ContainerConfig{Name: "app", UserImage: "app:1"},
	}
	in.Config.Security.Namespaces = in.Sandbox.Namespaces
	in.Image = ocispec.Image{Config: ocispec.ImageConfig{Cmd: []string{"/bin/app"}}}
	return in
}

func write(t *testing.T, file, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func testNode() Node {
	return Node{AllCaps: []string{"CAP_CHOWN", "CAP_NET_ADMIN", "CAP_SYS_ADMIN"}, RecursiveReadOnly: true}
}

func build(t *testing.T, n Node, in Input) Output {
	t.Helper()
	out, err := NewBuilder(n).Build(context.Background(), in)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func wantError(t *testing.T, n Node, in Input, is func(error) bool, mention string) {
	t.Helper()
	_, err := NewBuilder(n).Build(context.Background(), in)
	if err == nil || !is(err) || !strings.Contains(err.Error(), mention) {
		t.Fatalf("error %v, want one of the class that mentions %q", err, mention)
	}
}

func anyError(err error) bool { return err != nil }

func namespace(sp *specs.Spec, kind specs.LinuxNamespaceType) (path string, ok bool) {
	for _, n := range sp.Linux.Namespaces {
		if n.Type == kind {
			return n.Path, true
		}
	}
	return "", false
}

func mountAt(sp *specs.Spec, at string) *specs.Mount {
	for i := range sp.Mounts {
		if sp.Mounts[i].Destination == at {
			return &sp.Mounts[i]
		}
	}
	return nil
}

func TestNamespacesFollowPodAndModes(t *testing.T) {
	user := &model.UserNamespace{UIDs: []model.IDMapping{{HostID: 65536, Length: 65536}}, GIDs: []model.IDMapping{{HostID: 65536, Length: 65536}}}
	for name, tc := range map[string]struct {
		edit func(*Input)
		want map[specs.LinuxNamespaceType]string
		not  []specs.LinuxNamespaceType
	}{
		"own pid namespace": {func(*Input) {}, map[specs.LinuxNamespaceType]string{
			specs.NetworkNamespace: "/ns/net", specs.IPCNamespace: "/ns/ipc", specs.UTSNamespace: "/ns/uts",
			specs.PIDNamespace: "", specs.MountNamespace: "", specs.CgroupNamespace: "",
		}, []specs.LinuxNamespaceType{specs.UserNamespace}},
		"pid namespace of the pod": {func(in *Input) {
			in.Config.Security.Namespaces.PID, in.PIDNamespace = model.ModePod, "/proc/7/ns/pid"
		}, map[specs.LinuxNamespaceType]string{specs.PIDNamespace: "/proc/7/ns/pid"}, nil},
		"all of the node": {func(in *Input) {
			ns := model.Namespaces{Network: model.ModeNode, PID: model.ModeNode, IPC: model.ModeNode}
			in.Sandbox.Namespaces, in.Config.Security.Namespaces = ns, ns
			in.Namespaces = network.Namespaces{}
		}, nil, []specs.LinuxNamespaceType{specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.PIDNamespace}},
		"user namespace of the pod": {func(in *Input) {
			in.Sandbox.Namespaces.User, in.Namespaces.User = user, "/ns/user"
		}, map[specs.LinuxNamespaceType]string{specs.UserNamespace: "/ns/user"}, nil},
		"privileged sees the node's cgroups": {func(in *Input) {
			in.Sandbox.Privileged, in.Config.Security.Privileged = true, true
		}, nil, []specs.LinuxNamespaceType{specs.CgroupNamespace}},
	} {
		t.Run(name, func(t *testing.T) {
			in := input(t)
			tc.edit(&in)
			sp := build(t, testNode(), in).Spec
			for kind, want := range tc.want {
				if got, ok := namespace(sp, kind); !ok || got != want {
					t.Errorf("%s namespace %q (%v), want %q", kind, got, ok, want)
				}
			}
			for _, kind := range tc.not {
				if got, ok := namespace(sp, kind); ok {
					t.Errorf("%s namespace %q, want the node's", kind, got)
				}
			}
		})
	}
}

func TestNamespaceWithoutPathNeverFallsBackToTheNodes(t *testing.T) {
	for name, edit := range map[string]func(*Input){
		"network": func(in *Input) { in.Namespaces.Net = "" },
		"ipc":     func(in *Input) { in.Namespaces.IPC = "" },
		"uts":     func(in *Input) { in.Namespaces.UTS = "" },
		"user":    func(in *Input) { in.Sandbox.Namespaces.User = &model.UserNamespace{} },
		"pid":     func(in *Input) { in.Config.Security.Namespaces.PID = model.ModePod },
	} {
		t.Run(name, func(t *testing.T) {
			in := input(t)
			edit(&in)
			wantError(t, testNode(), in, anyError, name)
		})
	}
}

func TestContainerThatContradictsItsPodIsRefused(t *testing.T) {
	other := &model.UserNamespace{UIDs: []model.IDMapping{{HostID: 1, Length: 1}}, GIDs: []model.IDMapping{{HostID: 1, Length: 1}}}
	for name, tc := range map[string]struct {
		edit    func(*Input)
		mention string
	}{
		"network":    {func(in *Input) { in.Config.Security.Namespaces.Network = model.ModeNode }, "network"},
		"ipc":        {func(in *Input) { in.Config.Security.Namespaces.IPC = model.ModeNode }, "IPC"},
		"pid":        {func(in *Input) { in.Config.Security.Namespaces.PID = model.ModeNode }, "pid"},
		"user":       {func(in *Input) { in.Config.Security.Namespaces.User = other }, "user namespace"},
		"privileged": {func(in *Input) { in.Config.Security.Privileged = true }, "privileged"},
	} {
		t.Run(name, func(t *testing.T) {
			in := input(t)
			tc.edit(&in)
			wantError(t, testNode(), in, errdefs.IsInvalidArgument, tc.mention)
		})
	}
}

// CVE-2024-3154: runc reads settings of systemd units from annotations.
func TestAnnotationsOfThePodStayOut(t *testing.T) {
	in := input(t)
	evil := map[string]string{"org.systemd.property.ExecStart": "['/bin/sh']", "io.kubernetes.cri.sandbox-id": "other"}
	in.Sandbox.Annotations, in.Config.Annotations, in.Sandbox.Labels, in.Config.Labels = evil, evil, evil, evil
	in.Image.Config.Labels = evil
	got := build(t, testNode(), in).Spec.Annotations
	if got["io.kubernetes.cri.sandbox-id"] != "s1" || got["io.kubernetes.cri.container-type"] != "container" {
		t.Errorf("annotations %v", got)
	}
	for k := range got {
		if !strings.HasPrefix(k, "io.kubernetes.cri.") {
			t.Errorf("annotation %s", k)
		}
	}
}

func TestCgroupsPathFollowsTheDriver(t *testing.T) {
	for name, tc := range map[string]struct {
		systemd      bool
		parent, want string
	}{
		"cgroupfs":         {false, "/kubepods/podx", "/kubepods/podx/c1"},
		"cgroupfs default": {false, "", "/cri-pouch/c1"},
		"relative":         {false, "kubepods", "/kubepods/c1"},
		"systemd":          {true, "/kubepods.slice/kubepods-podx.slice", "kubepods-podx.slice:cri-pouch:c1"},
		"systemd default":  {true, "", "cri-pouch.slice:cri-pouch:c1"},
	} {
		t.Run(name, func(t *testing.T) {
			in := input(t)
			in.Sandbox.CgroupParent = tc.parent
			n := testNode()
			n.SystemdCgroup = tc.systemd
			if got := build(t, n, in).Spec.Linux.CgroupsPath; got != tc.want {
				t.Errorf("path %q, want %q", got, tc.want)
			}
		})
	}
	in := input(t)
	in.Sandbox.CgroupParent = "/kubepods/podx"
	wantError(t, Node{SystemdCgroup: true}, in, errdefs.IsInvalidArgument, "systemd")
}

func TestResourcesSetLimitsAndKeepTheRest(t *testing.T) {
	b := NewBuilder(Node{CgroupV2: true, SwapLimit: true, HugeTLB: true})
	have := &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}}
	got := b.Resources(have, &model.Resources{
		CPUPeriod: 100000, CPUQuota: -1, CPUShares: 2, MemoryLimit: 64 << 20, CpusetCpus: "0",
		HugepageLimits: map[string]uint64{"2MB": 0, "1GB": 1 << 30}, Unified: map[string]string{"memory.high": "1"},
	})
	if len(got.Devices) != 1 || *got.CPU.Quota != -1 || *got.CPU.Period != 100000 || *got.CPU.Shares != 2 || got.CPU.Cpus != "0" {
		t.Errorf("CPU or devices: %+v", got)
	}
	if *got.Memory.Limit != 64<<20 || *got.Memory.Swap != 64<<20 {
		t.Errorf("memory limit %d, with swap %d", *got.Memory.Limit, *got.Memory.Swap)
	}
	if len(got.HugepageLimits) != 2 || got.HugepageLimits[0].Pagesize != "1GB" || got.Unified["memory.high"] != "1" {
		t.Errorf("huge pages %v, unified %v", got.HugepageLimits, got.Unified)
	}
	if have.CPU != nil || have.Memory != nil {
		t.Error("the argument was changed")
	}
	poor := NewBuilder(Node{}).Resources(nil, &model.Resources{MemoryLimit: 1, MemorySwap: 2, HugepageLimits: map[string]uint64{"2MB": 0}})
	if poor.Memory.Swap != nil || poor.HugepageLimits != nil {
		t.Errorf("limits that the node does not have: %+v", poor)
	}
	if empty := b.Resources(nil, nil); empty == nil || empty.CPU != nil {
		t.Errorf("got %+v", empty)
	}
}

func TestUnifiedNeedsCgroupV2(t *testing.T) {
	in := input(t)
	in.Config.Resources = &model.Resources{Unified: map[string]string{"memory.high": "1"}}
	wantError(t, Node{}, in, errdefs.IsFailedPrecondition, "unified")
}

func TestHolderHasNoRights(t *testing.T) {
	b := NewBuilder(testNode())
	in := input(t)
	sp, err := b.Holder(HolderInput{SandboxID: "s1", Sandbox: in.Sandbox, Rootfs: in.Rootfs, Namespaces: in.Namespaces})
	if err != nil {
		t.Fatal(err)
	}
	p := sp.Process
	if p.User.UID != 65535 || p.User.GID != 65535 || !p.NoNewPrivileges || sp.Linux.Seccomp == nil || !sp.Root.Readonly {
		t.Errorf("process %+v", p)
	}
	for name, set := range map[string][]string{"bounding": p.Capabilities.Bounding, "effective": p.Capabilities.Effective, "permitted": p.Capabilities.Permitted} {
		if len(set) > 0 {
			t.Errorf("%s capabilities %v", name, set)
		}
	}
	if !slices.Equal(p.Args, []string{"/pouch-init", "hold"}) || sp.Linux.CgroupsPath != "/cri-pouch/s1" {
		t.Errorf("args %v, cgroup %s", p.Args, sp.Linux.CgroupsPath)
	}
	if at, ok := namespace(sp, specs.PIDNamespace); !ok || at != "" {
		t.Errorf("pid namespace %q, want a new one", at)
	}
	if at, _ := namespace(sp, specs.NetworkNamespace); at != "/ns/net" {
		t.Errorf("network namespace %q", at)
	}
	in.Namespaces.Net = ""
	if _, err := b.Holder(HolderInput{Sandbox: in.Sandbox, Namespaces: in.Namespaces}); err == nil {
		t.Error("a holder in the node's network was made")
	}
}

func TestExecChangesTheCommandOnly(t *testing.T) {
	in := input(t)
	in.Config.Security.NoNewPrivs = true
	b := NewBuilder(testNode())
	sp := build(t, testNode(), in).Spec
	p := b.Exec(sp, []string{"ls"}, true)
	if !slices.Equal(p.Args, []string{"ls"}) || !p.Terminal || !slices.Contains(p.Env, "TERM=xterm") || !p.NoNewPrivileges {
		t.Errorf("exec %+v", p)
	}
	if slices.Contains(sp.Process.Env, "TERM=xterm") || sp.Process.Args[0] != "/bin/app" || sp.Process.Terminal {
		t.Error("the container's own process was changed")
	}
}

func TestThisNodeIsDetected(t *testing.T) {
	n, err := DetectNode()
	if err != nil {
		t.Fatal(err)
	}
	_, err = os.Stat("/sys/fs/cgroup/cgroup.controllers")
	if n.CgroupV2 != (err == nil) {
		t.Errorf("cgroup v2 %v", n.CgroupV2)
	}
	if os.Geteuid() == 0 && !slices.Contains(n.AllCaps, "CAP_CHOWN") {
		t.Errorf("capabilities %v", n.AllCaps)
	}
}
