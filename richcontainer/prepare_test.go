package richcontainer

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// rootfs makes a root filesystem: a name that ends in "/" is a folder, a content that begins with "-> " a link, "fifo" a
// FIFO, everything else a program.
func rootfs(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		at := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		target, isLink := strings.CutPrefix(content, "-> ")
		switch {
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(at, 0o755)
		case isLink:
			err = os.Symlink(target, at)
		case content == "fifo":
			err = unix.Mkfifo(at, 0o755)
		default:
			err = os.WriteFile(at, []byte(content), 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// request is for a plain container that runs "server --flag" as root.
func request(t *testing.T, mode Mode, root string) Request {
	t.Helper()
	c, err := (Node{}).Choose(Source{Container: "app", Annotations: map[string]string{modeKey: string(mode)}})
	if err != nil {
		t.Fatal(err)
	}
	caps := []string{"CAP_CHOWN", "CAP_SETUID", "CAP_SETGID", "CAP_SYS_BOOT"}
	bundle := filepath.Join(t.TempDir(), "bundle")
	t.Cleanup(func() {
		if err := Unseal(bundle); err != nil {
			t.Error(err)
		}
	})
	return Request{
		Choice: c, Container: "app", Namespace: "default", PodUID: "0f5a3c7e-7d7e-4a5e-9b1a-2f3c4d5e6f70", Bundle: bundle, Rootfs: root, StopSignal: "SIGTERM",
		Spec: &specs.Spec{
			Process: &specs.Process{Args: []string{"server", "--flag"}, Env: []string{"PATH=/usr/bin:/bin", "K=v"}, Cwd: "/srv",
				Capabilities: &specs.LinuxCapabilities{Bounding: slices.Clone(caps), Permitted: slices.Clone(caps), Effective: slices.Clone(caps)}},
			Root: &specs.Root{Path: root},
			Mounts: []specs.Mount{
				{Destination: "/proc", Type: "proc"}, {Destination: "/sys", Type: "sysfs"}, {Destination: "/sys/fs/cgroup", Type: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			},
			Linux: &specs.Linux{CgroupsPath: "/pods/c1", Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}}},
		},
	}
}

// sealed is where a program is sealed already.
type sealed string

func (s sealed) Seal(string) (string, error) { return string(s), nil }

var node = Node{PouchInit: sealed("/usr/libexec/pouch-init")}

func TestDumbInitOfTheImageOrOurs(t *testing.T) {
	const own = "/run/.pouch/init"
	for name, tc := range map[string]struct {
		files map[string]string
		edit  func(r *Request)
		want  []string
	}{
		"the image has one":             {files: map[string]string{"usr/bin/dumb-init": "x"}, want: []string{"/usr/bin/dumb-init", "--", "server", "--flag"}},
		"behind links":                  {files: map[string]string{"bin": "-> usr/bin", "usr/bin/dumb-init": "-> /opt/d", "opt/d": "x"}, want: []string{"/usr/bin/dumb-init", "--", "server", "--flag"}},
		"the image has none":            {want: []string{own, "server", "--flag"}},
		"it leads out of the image":     {files: map[string]string{"usr/bin/dumb-init": "-> ../../../../../../../../bin/sh"}, want: []string{own, "server", "--flag"}},
		"it leads to /proc":             {files: map[string]string{"usr/bin/dumb-init": "-> /proc/self/exe"}, want: []string{own, "server", "--flag"}},
		"it is a folder":                {files: map[string]string{"usr/bin/dumb-init/": ""}, want: []string{own, "server", "--flag"}},
		"it is a FIFO":                  {files: map[string]string{"usr/bin/dumb-init": "fifo"}, want: []string{own, "server", "--flag"}},
		"it is empty":                   {files: map[string]string{"usr/bin/dumb-init": ""}, want: []string{own, "server", "--flag"}},
		"a mount hides it":              {files: map[string]string{"usr/bin/dumb-init": "x"}, edit: mountAt("/usr"), want: []string{own, "server", "--flag"}},
		"a mount hides what it is":      {files: map[string]string{"usr/bin/dumb-init": "-> /opt/d", "opt/d": "x"}, edit: mountAt("/opt"), want: []string{own, "server", "--flag"}},
		"the command has it already":    {files: map[string]string{"usr/bin/dumb-init": "x"}, edit: args("dumb-init", "--rewrite", "15:3", "server"), want: []string{"dumb-init", "--rewrite", "15:3", "server"}},
		"the command begins with -":     {edit: args("-x"), want: []string{own, "-x"}},
		"/run is a link inside":         {files: map[string]string{"run": "-> var/run", "var/run/": ""}, want: []string{own, "server", "--flag"}},
		"/run leads to nothing":         {files: map[string]string{"run": "-> /nowhere"}, want: []string{own, "server", "--flag"}},
		"the user may not run that one": {files: map[string]string{"usr/bin/dumb-init": "x"}, edit: func(r *Request) { chmod(t, r.Rootfs+"/usr/bin/dumb-init", 0o700); r.Spec.Process.User.UID = 1000 }, want: []string{own, "server", "--flag"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := request(t, DumbInit, rootfs(t, tc.files))
			if tc.edit != nil {
				tc.edit(&r)
			}
			asked, mounts := slices.Clone(r.Spec.Process.Args), len(r.Spec.Mounts)
			got, err := node.Prepare(r)
			if err != nil {
				t.Fatal(err)
			}
			if p := r.Spec.Process; !slices.Equal(p.Args, tc.want) || p.Cwd != "/srv" || !slices.Equal(p.Env, []string{"PATH=/usr/bin:/bin", "K=v"}) {
				t.Errorf("%+v", p)
			}
			if !slices.Equal(got.Process.Args, asked) || got.StopSignal != "SIGTERM" {
				t.Errorf("%+v", got)
			}
			ours := tc.want[0] == own
			if added := r.Spec.Mounts[mounts:]; ours != (len(added) == 1) || ours && (added[0].Destination != own || added[0].Source != "/usr/libexec/pouch-init" || !slices.Contains(added[0].Options, "ro")) {
				t.Errorf("mounts %+v", added)
			}
		})
	}
}

func mountAt(p string) func(*Request) {
	return func(r *Request) {
		r.Spec.Mounts = append(r.Spec.Mounts, specs.Mount{Destination: p, Type: "bind", Source: "/x"})
	}
}

func args(a ...string) func(*Request) { return func(r *Request) { r.Spec.Process.Args = a } }

func chmod(t *testing.T, p string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(p, mode); err != nil {
		t.Fatal(err)
	}
}

func TestDumbInitThatCannotBe(t *testing.T) {
	for name, tc := range map[string]struct {
		files map[string]string
		edit  func(r *Request)
		want  []string
	}{
		"/run is a file":         {files: map[string]string{"run": "x"}, want: []string{"/run of the image is no folder but a file"}},
		"/run is a FIFO":         {files: map[string]string{"run": "fifo"}, want: []string{"/run of the image is no folder but a FIFO"}},
		"links in a circle":      {files: map[string]string{"run": "-> ran", "ran": "-> run"}, want: []string{"/run", "circle"}},
		"/run/.pouch is a file":  {files: map[string]string{"run/.pouch": "x"}, want: []string{"/run/.pouch of the image"}},
		"a shared pid namespace": {edit: func(r *Request) { r.Spec.Linux.Namespaces[1].Path = "/proc/1/ns/pid" }, want: []string{"pid namespace", "shareProcessNamespace", "rich.cri-pouch.io/mode.app: none"}},
		"the node's pids":        {edit: func(r *Request) { r.Spec.Linux.Namespaces = r.Spec.Linux.Namespaces[:1] }, want: []string{"pid namespace"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := request(t, DumbInit, rootfs(t, tc.files))
			if tc.edit != nil {
				tc.edit(&r)
			}
			_, err := node.Prepare(r)
			wantError(t, err, errdefs.IsInvalidArgument, append(tc.want, "dumb-init mode (annotation rich.cri-pouch.io/mode)")...)
		})
	}
}

func TestWhoMayHaveAnInitThatIsRoot(t *testing.T) {
	trusting := Node{RootNamespaces: []string{"infra"}, RootHandlers: []string{"vm"}}
	user := func(r *Request) { r.Spec.Process.User.UID = 1000 }
	noPrivs := func(r *Request) { r.Spec.Process.NoNewPrivileges = true }
	for name, tc := range map[string]struct {
		node    Node
		edits   []func(*Request)
		refused string
	}{
		"root":         {},
		"another user": {edits: []func(*Request){user}, refused: "user 1000"},
		"a user without powers": {edits: []func(*Request){user, func(r *Request) { r.Spec.Process.Capabilities.Bounding = nil }},
			refused: "all but dumb-init mode need the capabilities SETUID"},
		"no new privileges":         {edits: []func(*Request){noPrivs}, refused: "allowPrivilegeEscalation"},
		"another node's namespace":  {node: trusting, edits: []func(*Request){user}, refused: `namespace "default"`},
		"a trusted namespace":       {node: trusting, edits: []func(*Request){user, noPrivs, func(r *Request) { r.Namespace = "infra" }}},
		"a trusted handler":         {node: trusting, edits: []func(*Request){user, noPrivs, func(r *Request) { r.Handler = "vm" }}},
		"a user namespace":          {edits: []func(*Request){user, noPrivs, func(r *Request) { r.UIDs = []IDMapping{{0, 100000, 65536}} }}},
		"no handler is not trusted": {node: Node{RootHandlers: []string{""}}, edits: []func(*Request){user}, refused: "user 1000"},
	} {
		t.Run(name, func(t *testing.T) {
			r := request(t, Systemd, t.TempDir())
			for _, e := range tc.edits {
				e(&r)
			}
			err := tc.node.mayBeRoot(r, r.Spec.Process)
			if tc.refused == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantError(t, err, errdefs.IsPermissionDenied, "systemd mode (annotation rich.cri-pouch.io/mode)", tc.refused, "hostUsers: false", "rich.root_namespaces")
		})
	}
}

func TestFilesOfAnImageAreReadInsideOfIt(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	root := rootfs(t, map[string]string{
		"plain": "inside", "link": "-> /plain", "up": "-> ../../../plain", "out": "-> " + outside, "loop": "-> loop", "fifo": "fifo", "dir/": "", "magic": "-> /proc/self/root", "large": strings.Repeat("x", 200),
	})
	i, err := openImage(root, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer i.close()
	for name, want := range map[string]string{"/plain": "inside", "/link": "inside", "/up": "inside", "/../../plain": "inside", "/out": "", "/none": "", "/plain/x": "", "/magic": ""} {
		if b, err := i.read(name, 100); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	for name, want := range map[string]string{"/loop": "circle", "/fifo": "FIFO", "/dir": "folder", "/large": "more than 100 bytes"} {
		_, err := i.read(name, 100)
		if err == nil || !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func owner(st os.FileInfo) (uid, gid uint32) {
	s := st.Sys().(*syscall.Stat_t)
	return s.Uid, s.Gid
}

// What the pod mounts at a folder that the init is to find empty stays, with the folders below it that it lacks.
func TestWhatThePodMountsAtTheInitsFolders(t *testing.T) {
	root := rootfs(t, map[string]string{"lib/systemd/systemd": "x", "run/": "", "tmp/": "", "etc/": ""})
	for name, tc := range map[string]struct{ mounts, want []string }{
		"nothing":   {nil, []string{"/run", "/run/lock", "/tmp"}},
		"run":       {[]string{"/run"}, []string{"/tmp", "pod /run", "/run/lock"}},
		"run, lock": {[]string{"/run/", "/run/lock"}, []string{"/tmp", "pod /run/", "pod /run/lock"}},
		"tmp":       {[]string{"/tmp"}, []string{"/run", "/run/lock", "pod /tmp"}},
		"below":     {[]string{"/run/lock/x"}, []string{"/run", "/run/lock", "/tmp", "pod /run/lock/x"}},
	} {
		r := request(t, Systemd, root)
		for _, m := range tc.mounts {
			r.Spec.Mounts = append(r.Spec.Mounts, specs.Mount{Destination: m, Type: "bind", Source: "/host"})
		}
		v2 := node
		v2.CgroupV2 = true
		if _, err := v2.Prepare(r); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var got []string
		for _, m := range r.Spec.Mounts {
			switch {
			case m.Type == "tmpfs":
				got = append(got, m.Destination)
			case m.Source == "/host":
				got = append(got, "pod "+m.Destination)
			}
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: mounted are %q, want %q", name, got, tc.want)
		}
	}
}

func TestFoldersOfOneBoot(t *testing.T) {
	for name, tc := range map[string]struct {
		mode  Mode
		files map[string]string
		want  []string
	}{
		"systemd":                 {Systemd, nil, []string{"/run", "/run/lock", "/tmp"}},
		"an init":                 {SbinInit, map[string]string{"sbin/init": "x"}, []string{"/run", "/run/lock"}},
		"an init that is systemd": {SbinInit, map[string]string{"sbin/init": "-> ../lib/systemd/systemd", "lib/systemd/systemd": "x"}, []string{"/run", "/run/lock", "/tmp"}},
		"a small one":             {DumbInit, nil, nil},
		"none":                    {None, nil, nil},
	} {
		if got, err := (Choice{Mode: tc.mode}).OfOneBoot(rootfs(t, tc.files)); err != nil || !slices.Equal(got, tc.want) {
			t.Errorf("%s: %q, %v, want %q", name, got, err, tc.want)
		}
	}
	c := Choice{Mode: SbinInit, By: "annotation " + modeKey}
	_, err := c.OfOneBoot(rootfs(t, map[string]string{"sbin/init": "-> init"}))
	wantError(t, err, errdefs.IsInvalidArgument, "sbin-init mode (annotation rich.cri-pouch.io/mode)", "/sbin/init", "circle", "let them lead to")
}
