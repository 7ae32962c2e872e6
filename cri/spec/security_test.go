package spec

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/cri/model"
)

func TestCapabilitiesAreExactlyAsAsked(t *testing.T) {
	standard := defaultCapabilities()
	all := testNode().AllCaps
	for name, tc := range map[string]struct {
		sec           model.Security
		want, ambient []string
	}{
		"default":            {model.Security{}, standard, nil},
		"add":                {model.Security{AddCapabilities: []string{"CAP_SYS_PTRACE", "CAP_CHOWN"}}, append(slices.Clone(standard), "CAP_SYS_PTRACE"), nil},
		"drop":               {model.Security{DropCapabilities: []string{"CAP_NET_RAW"}}, slices.DeleteFunc(slices.Clone(standard), func(c string) bool { return c == "CAP_NET_RAW" }), nil},
		"drop ALL":           {model.Security{DropCapabilities: []string{"ALL"}}, nil, nil},
		"drop ALL, add one":  {model.Security{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"CAP_KILL"}}, []string{"CAP_KILL"}, nil},
		"add ALL":            {model.Security{AddCapabilities: []string{"ALL"}}, all, nil},
		"add ALL, drop one":  {model.Security{AddCapabilities: []string{"ALL"}, DropCapabilities: []string{"CAP_SYS_ADMIN"}}, []string{"CAP_CHOWN", "CAP_NET_ADMIN"}, nil},
		"add and drop one":   {model.Security{DropCapabilities: []string{"ALL", "CAP_KILL"}, AddCapabilities: []string{"CAP_KILL"}}, nil, nil},
		"ambient":            {model.Security{DropCapabilities: []string{"ALL"}, AddAmbientCapabilities: []string{"CAP_KILL"}}, []string{"CAP_KILL"}, []string{"CAP_KILL"}},
		"one the node lacks": {model.Security{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"CAP_BPF"}}, []string{"CAP_BPF"}, nil},
		"privileged":         {model.Security{Privileged: true, DropCapabilities: []string{"ALL"}}, all, nil},
	} {
		t.Run(name, func(t *testing.T) {
			in := input(t)
			in.Sandbox.Privileged = tc.sec.Privileged
			tc.sec.Namespaces = in.Config.Security.Namespaces
			in.Config.Security = tc.sec
			c := build(t, testNode(), in).Spec.Process.Capabilities
			for set, got := range map[string][]string{"bounding": c.Bounding, "permitted": c.Permitted, "effective": c.Effective} {
				if !slices.Equal(got, tc.want) {
					t.Errorf("%s %v, want %v", set, got, tc.want)
				}
			}
			if !slices.Equal(c.Ambient, tc.ambient) || !slices.Equal(c.Inheritable, tc.ambient) {
				t.Errorf("ambient %v, inheritable %v, want %v", c.Ambient, c.Inheritable, tc.ambient)
			}
		})
	}
}

func TestSeccompProfiles(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "ok.json"), `{"defaultAction":"SCMP_ACT_ERRNO"}`)
	write(t, filepath.Join(dir, "text.json"), `hello`)
	write(t, filepath.Join(dir, "empty.json"), `{}`)
	write(t, filepath.Join(dir, "large.json"), `{"defaultAction":"`+strings.Repeat("x", maxProfile)+`"}`)
	if err := unix.Mkfifo(filepath.Join(dir, "fifo.json"), 0o600); err != nil {
		t.Fatal(err)
	}
	n := testNode()
	n.SeccompRoot = dir
	at := func(p *model.Profile) Input {
		in := input(t)
		in.Config.Security.Seccomp = p
		return in
	}
	for name, p := range map[string]*model.Profile{"none": nil, "unconfined": {Type: model.ProfileUnconfined}} {
		if got := build(t, n, at(p)).Spec.Linux.Seccomp; got != nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if got := build(t, n, at(&model.Profile{Type: model.ProfileRuntimeDefault})).Spec.Linux.Seccomp; got == nil || got.DefaultAction != specs.ActErrno {
		t.Errorf("default: %+v", got)
	}
	for _, ref := range []string{"ok.json", filepath.Join(dir, "ok.json")} {
		if got := build(t, n, at(&model.Profile{Type: model.ProfileLocalhost, Ref: ref})).Spec.Linux.Seccomp; got == nil || got.DefaultAction != specs.ActErrno {
			t.Errorf("%s: %+v", ref, got)
		}
	}
	for ref, mention := range map[string]string{
		"text.json": "no JSON", "empty.json": "defaultAction", "large.json": "more than", "fifo.json": "plain file", "absent.json": "absent.json",
	} {
		wantError(t, n, at(&model.Profile{Type: model.ProfileLocalhost, Ref: ref}), anyError, mention)
	}
	in := at(&model.Profile{Type: model.ProfileRuntimeDefault})
	in.Sandbox.Privileged, in.Config.Security.Privileged = true, true
	in.Config.Security.MaskedPaths, in.Config.Security.ReadonlyPaths = []string{"/proc/kcore"}, []string{"/proc/sys"}
	sp := build(t, n, in).Spec
	if sp.Linux.Seccomp != nil || sp.Linux.MaskedPaths != nil || sp.Linux.ReadonlyPaths != nil {
		t.Error("a privileged container is restricted")
	}
	in.Sandbox.Privileged, in.Config.Security.Privileged = false, false
	sp = build(t, n, in).Spec
	if !slices.Equal(sp.Linux.MaskedPaths, []string{"/proc/kcore"}) || !slices.Equal(sp.Linux.ReadonlyPaths, []string{"/proc/sys"}) {
		t.Errorf("masked %v, read-only %v", sp.Linux.MaskedPaths, sp.Linux.ReadonlyPaths)
	}
}

func TestAppArmorProfiles(t *testing.T) {
	loaded := filepath.Join(t.TempDir(), "profiles")
	write(t, loaded, "cri-pouch-default (enforce)\nmine (x) (complain)\n")
	armed := Node{AppArmor: true, DefaultAppArmor: "cri-pouch-default"}
	local := func(ref string) *model.Profile { return &model.Profile{Type: model.ProfileLocalhost, Ref: ref} }
	for name, tc := range map[string]struct {
		node    Node
		profile *model.Profile
		want    string
		mention string
	}{
		"none asked for":              {armed, nil, "cri-pouch-default", ""},
		"default":                     {armed, &model.Profile{Type: model.ProfileRuntimeDefault}, "cri-pouch-default", ""},
		"unconfined":                  {armed, &model.Profile{Type: model.ProfileUnconfined}, "", ""},
		"loaded":                      {armed, local("mine (x)"), "mine (x)", ""},
		"not loaded":                  {armed, local("mine"), "", "not loaded"},
		"no AppArmor, none asked for": {Node{}, nil, "", ""},
		"no AppArmor, default":        {Node{}, &model.Profile{Type: model.ProfileRuntimeDefault}, "", ""},
		"no AppArmor, one asked for":  {Node{}, local("mine (x)"), "", "no AppArmor"},
		"default could not be loaded": {Node{AppArmor: true}, &model.Profile{Type: model.ProfileRuntimeDefault}, "", "apparmor_parser"},
		"default missing, none asked": {Node{AppArmor: true}, nil, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := NewBuilder(tc.node)
			b.host.appArmorProfiles = loaded
			got, err := b.appArmor(tc.profile)
			if tc.mention != "" {
				if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), tc.mention) {
					t.Fatalf("error %v, want %q", err, tc.mention)
				}
				return
			}
			if err != nil || got != tc.want {
				t.Errorf("profile %q, %v, want %q", got, err, tc.want)
			}
		})
	}
}

func TestSELinuxLabelsOfAPodShareALevel(t *testing.T) {
	const p, f = "system_u:system_r:container_t:s0", "system_u:object_r:container_file_t:s0"
	a, file, err := fitLabels(p, f, nil, "s1")
	if err != nil {
		t.Fatal(err)
	}
	b, _, _ := fitLabels(p, f, nil, "s1")
	other, _, _ := fitLabels(p, f, nil, "s2")
	level := a[strings.LastIndex(a, ":s0"):]
	if a != b || a == other || !strings.HasSuffix(file, level) || !strings.HasPrefix(a, "system_u:system_r:container_t:s0:c") {
		t.Errorf("labels %s, %s, %s, %s", a, b, other, file)
	}
	asked, file, err := fitLabels(p, f, &model.SELinux{Type: "spc_t", Level: "s0:c3,c7"}, "s1")
	if err != nil || asked != "system_u:system_r:spc_t:s0:c3,c7" || file != "system_u:object_r:container_file_t:s0:c3,c7" {
		t.Errorf("labels %s, %s, %v", asked, file, err)
	}
}

func TestDevices(t *testing.T) {
	in := input(t)
	in.Config.Devices = []model.Device{{ContainerPath: "/dev/nothing", HostPath: "/dev/null", Permissions: "r"}}
	sp := build(t, testNode(), in).Spec
	rules := sp.Linux.Resources.Devices
	if len(rules) != 2 || rules[0].Allow || rules[0].Access != "rwm" || !rules[1].Allow || rules[1].Access != "r" || *rules[1].Major != 1 || *rules[1].Minor != 3 {
		t.Errorf("rules %+v", rules)
	}
	if len(sp.Linux.Devices) != 1 || sp.Linux.Devices[0].Path != "/dev/nothing" || sp.Linux.Devices[0].Type != "c" {
		t.Errorf("devices %+v", sp.Linux.Devices)
	}
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "")
	for host, mention := range map[string]string{file: "no device", "/dev/absent": "/dev/absent", filepath.Dir(file): "no device"} {
		in.Config.Devices[0].HostPath = host
		wantError(t, testNode(), in, anyError, mention)
	}
}

func TestFolderOfDevicesAndThePrivilegedSeeThemAll(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making device nodes needs root")
	}
	dir := t.TempDir()
	for name, minor := range map[string]uint32{"null": 3, "sub/zero": 5, "pts/0": 3, "console": 1} {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mknod(p, unix.S_IFCHR|0o640, int(unix.Mkdev(1, minor))); err != nil {
			t.Skipf("making device nodes: %v", err)
		}
	}
	if err := os.Symlink("/dev/null", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	paths := func(sp *specs.Spec) []string {
		var out []string
		for _, d := range sp.Linux.Devices {
			out = append(out, d.Path)
		}
		slices.Sort(out)
		return out
	}
	in := input(t)
	in.Config.Devices = []model.Device{{ContainerPath: "/dev/x", HostPath: dir, Permissions: "rw"}}
	if got, want := paths(build(t, testNode(), in).Spec), []string{"/dev/x/console", "/dev/x/null", "/dev/x/pts/0", "/dev/x/sub/zero"}; !slices.Equal(got, want) {
		t.Errorf("folder gave %v, want %v", got, want)
	}
	in.Config.Devices = nil
	in.Sandbox.Privileged, in.Config.Security.Privileged = true, true
	b := NewBuilder(testNode())
	b.host.dev = dir
	out, err := b.Build(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := paths(out.Spec), []string{"/dev/null", "/dev/sub/zero"}; !slices.Equal(got, want) {
		t.Errorf("privileged gave %v, want %v", got, want)
	}
	if r := out.Spec.Linux.Resources.Devices; len(r) != 1 || !r[0].Allow {
		t.Errorf("rules %+v", r)
	}
	if m := *out.Spec.Linux.Devices[0].FileMode; m != 0o640 {
		t.Errorf("mode %o", m)
	}
}
