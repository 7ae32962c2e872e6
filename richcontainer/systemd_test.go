package richcontainer

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-pouch/cri-pouch/internal/richrun"
)

// v1 is a node with cgroup v1, v2 one with cgroup v2.
var (
	v1 = Node{PouchInit: sealed("/usr/libexec/pouch-init"), SystemdHierarchy: "/sys/fs/cgroup/systemd"}
	v2 = Node{PouchInit: sealed("/usr/libexec/pouch-init"), CgroupV2: true}
)

// debian is what of an image with systemd 252 is looked at.
func debian(more map[string]string) map[string]string {
	files := map[string]string{
		"lib": "-> usr/lib", "sbin": "-> usr/sbin", "usr/lib/systemd/systemd": "...libsystemd-shared-252.so...", "usr/sbin/init": "-> /lib/systemd/systemd",
		"run/": "", "tmp/": "", "etc/machine-id": "uninitialized\n", "etc/profile.d/": "", "etc/pam.d/": "", "etc/environment": "OWN=1",
		"usr/lib/systemd/system/network-online.target": "[Unit]\n",
		"etc/passwd": "root:x:0:0:root:/root:/bin/bash\nweb:x:1000:1000::/srv/web:/bin/sh\n",
	}
	for name, content := range more {
		delete(files, name)
		if content != "gone" {
			files[name] = content
		}
	}
	return files
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it gives files to users of containers")
	}
}

func mountOf(sp *specs.Spec, at string) (specs.Mount, int) {
	i := slices.IndexFunc(sp.Mounts, func(m specs.Mount) bool { return m.Destination == at })
	if i < 0 {
		return specs.Mount{}, i
	}
	return sp.Mounts[i], i
}

// made gives a file of the folder that was made.
func made(t *testing.T, r Request, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(r.Bundle, richrun.Dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestSystemdTakesThePlaceOfTheCommand(t *testing.T) {
	needRoot(t)
	r := request(t, Systemd, rootfs(t, debian(nil)))
	r.StopSignal = "SIGRTMIN+3"
	got, err := v1.Prepare(r)
	if err != nil {
		t.Fatal(err)
	}
	p := r.Spec.Process
	if !slices.Equal(p.Args, []string{"/usr/lib/systemd/systemd"}) || p.Cwd != "/" || p.Terminal || p.User.UID != 0 || p.NoNewPrivileges {
		t.Errorf("pid 1 is %+v", p)
	}
	for _, want := range []string{"container=cri-pouch", "container_uuid=0f5a3c7e-7d7e-4a5e-9b1a-2f3c4d5e6f70", "SYSTEMD_UNIT_PATH=/run/.pouch/units:", "TERM=dumb"} {
		if !slices.Contains(p.Env, want) {
			t.Errorf("%s is not in %q", want, p.Env)
		}
	}
	if slices.Contains(p.Env, "K=v") {
		t.Error("the init has the application's environment")
	}
	for _, set := range [][]string{p.Capabilities.Bounding, p.Capabilities.Effective, p.Capabilities.Permitted, got.Process.Capabilities.Bounding} {
		if slices.Contains(set, "CAP_SYS_BOOT") || !slices.Contains(set, "CAP_CHOWN") {
			t.Errorf("capabilities %v", set)
		}
	}
	if a := got.Process; !slices.Equal(a.Args, []string{"server", "--flag"}) || a.Cwd != "/srv" || !slices.Contains(a.Env, "K=v") || a.Terminal || got.StopSignal != "SIGTERM" {
		t.Errorf("the application is %+v, its stop signal %s", a, got.StopSignal)
	}
	plan, err := richrun.ReadPlan(r.Bundle)
	if err != nil || plan.Mode != "systemd" || plan.Shutdown != 37 || plan.KillWhenAlone || !plan.Delegate || plan.ShutdownTimeout != 10*time.Second {
		t.Errorf("plan %+v, %v", plan, err)
	}
	if app := made(t, r, "app"); !strings.HasPrefix(app, "pouch-app 1\x00aserver\x00a--flag\x00ePATH=/usr/bin:/bin\x00eK=v\x00eHOME=/root\x00u0\x00g0\x00") {
		t.Errorf("the launcher is told %q", app)
	}
	if id := made(t, r, "machine-id"); id != "0f5a3c7e7d7e4a5e9b1a2f3c4d5e6f70\n" {
		t.Errorf("machine-id %q", id)
	}
}

func TestMountsOfSystemd(t *testing.T) {
	needRoot(t)
	r := request(t, Systemd, rootfs(t, debian(nil)))
	r.Spec.Mounts = append([]specs.Mount{{Destination: "/run/data", Type: "bind", Source: "/volume"}}, r.Spec.Mounts...)
	r.Spec.Mounts = append(r.Spec.Mounts, specs.Mount{Destination: "/etc/environment", Type: "bind", Source: "/a"})
	if _, err := v1.Prepare(r); err != nil {
		t.Fatal(err)
	}
	run, first := mountOf(r.Spec, "/run")
	if first != 0 || run.Type != "tmpfs" || slices.Contains(run.Options, "noexec") {
		t.Errorf("/run is mount %d: %+v", first, run)
	}
	if _, lock := mountOf(r.Spec, "/run/lock"); lock < first {
		t.Error("/run/lock is mounted before /run")
	}
	for at, mode := range map[string]string{"/run/.pouch": "ro", "/run/.pouch/record": "rw", "/run/.pouch/launch": "ro", "/etc/machine-id": "ro", "/etc/profile.d/pouchenv.sh": "ro"} {
		if m, i := mountOf(r.Spec, at); i < 0 || m.Type != "bind" || !slices.Contains(m.Options, mode) {
			t.Errorf("%s: %+v", at, m)
		}
	}
	if m, _ := mountOf(r.Spec, "/etc/environment"); m.Source != "/a" {
		t.Errorf("the pod's own mount gave way to %+v", m)
	}
	if !slices.ContainsFunc(r.Spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.CgroupNamespace }) {
		t.Error("it has no cgroup namespace of its own")
	}
	r = request(t, Systemd, rootfs(t, debian(nil)))
	r.Spec.Linux.Resources = &specs.LinuxResources{Unified: map[string]string{"memory.oom.group": "1", "memory.high": "5"}}
	if _, err := v2.Prepare(r); err != nil {
		t.Fatal(err)
	}
	// The OOM killer takes the application as a whole, not the container.
	if u := r.Spec.Linux.Resources.Unified; len(u) != 1 || !strings.Contains(made(t, r, "app"), "\x00o\x00") {
		t.Errorf("memory.oom.group: %v", u)
	}
}

func TestUnitsOfSystemd(t *testing.T) {
	needRoot(t)
	units := t.TempDir()
	for name, text := range map[string]string{
		"web.service": "[Service]\nExecStart=/bin/web\n[Install]\nWantedBy=multi-user.target special.target ../../etc/x.target\nRequiredBy=need.target\n",
		"job.service": "[Service]\nType=oneshot\nExecStart=/bin/job\n", "job.timer": "[Timer]\nOnBootSec=1\n", "alone.service": "[Service]\nExecStart=/bin/x\n", "each@.service": "[Service]\nExecStart=/bin/x %i\n",
		"never.service": "[Service]\nExecStart=/bin/x\n[Install]\n", "getty.target": "[Unit]\n", ".hidden": "",
	} {
		if err := os.WriteFile(filepath.Join(units, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r := request(t, Systemd, rootfs(t, debian(nil)))
	r.Spec.Mounts = append(r.Spec.Mounts, specs.Mount{Destination: "/etc/pouch", Type: "bind", Source: filepath.Dir(units)})
	r.Choice.Options.UnitsFrom, r.Choice.Options.WatchUnits, r.Choice.Options.After = "/etc/pouch/"+filepath.Base(units), []string{"web.service"}, []string{"network-online.target", "job.service"}
	if _, err := v1.Prepare(r); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(r.Bundle, "rich", "units")
	for name, want := range map[string]string{
		"multi-user.target.wants/pouch-app.service": "../pouch-app.service", "multi-user.target.wants/web.service": "../web.service", "special.target.wants/web.service": "../web.service",
		"need.target.requires/web.service": "../web.service", "timers.target.wants/job.timer": "../job.timer", "multi-user.target.wants/alone.service": "../alone.service",
		"systemd-udevd.service": "/dev/null", "tmp.mount": "/dev/null",
	} {
		if got, err := os.Readlink(filepath.Join(dir, name)); err != nil || got != want {
			t.Errorf("%s → %s, %v", name, got, err)
		}
	}
	for _, name := range []string{"multi-user.target.wants/job.service", "multi-user.target.wants/each@.service", "multi-user.target.wants/never.service", ".hidden"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			t.Errorf("there is %s", name)
		}
	}
	if got := made(t, r, "units/getty.target"); got != "[Unit]\n" {
		t.Errorf("a mask won over the pod's unit: %q", got)
	}
	if got := made(t, r, "units/web.service.d/50-pouch.conf"); got != "[Unit]\nOnFailure=pouch-unit-failed@%n.service\n" {
		t.Errorf("%q", got)
	}
	if got := made(t, r, "units/pouch-app.service"); !strings.Contains(got, "After=network-online.target job.service\nWants=network-online.target job.service\n") {
		t.Errorf("%s", got)
	}
	if plan, err := richrun.ReadPlan(r.Bundle); err != nil || !slices.Equal(plan.WatchUnits, []string{"web.service"}) {
		t.Errorf("%+v, %v", plan, err)
	}
}

func TestFilesBelongToTheContainersRoot(t *testing.T) {
	needRoot(t)
	r := request(t, Systemd, rootfs(t, debian(nil)))
	r.UIDs, r.GIDs = []IDMapping{{0, 100000, 65536}}, []IDMapping{{0, 200000, 65536}}
	r.Spec.Process.User.UID, r.Spec.Process.NoNewPrivileges = 1000, true
	if _, err := v1.Prepare(r); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]struct {
		mode     fs.FileMode
		uid, gid uint32
	}{
		"app": {0o400, 100000, 200000}, "record": {0o600, 100000, 200000}, "stdout": {0o660 | fs.ModeNamedPipe, 101000, 200000}, "stdin": {0o660 | fs.ModeNamedPipe, 101000, 200000},
		"control": {0o660 | fs.ModeNamedPipe, 100000, 200000},
	} {
		st, err := os.Lstat(filepath.Join(r.Bundle, "rich", name))
		if err != nil {
			t.Fatal(err)
		}
		if uid, gid := owner(st); st.Mode() != want.mode || uid != want.uid || gid != want.gid {
			t.Errorf("%s is %v of %d:%d", name, st.Mode(), uid, gid)
		}
	}
	plan, err := richrun.ReadPlan(r.Bundle)
	if err != nil || plan.OwnerUID != 100000 || plan.OwnerGID != 200000 {
		t.Errorf("%+v, %v", plan, err)
	}
	if app := made(t, r, "app"); !strings.Contains(app, "\x00u1000\x00") || !strings.Contains(app, "\x00p\x00") || !strings.Contains(app, "\x00eHOME=/srv/web\x00") {
		t.Errorf("the launcher is told %q", app)
	}
}

func TestImagesThatSystemdCannotRunOn(t *testing.T) {
	needRoot(t)
	for name, tc := range map[string]struct {
		node  Node
		files map[string]string
		edit  func(*Request)
		want  []string
		class func(error) bool
	}{
		"no systemd":                  {files: map[string]string{"usr/lib/systemd/systemd": "gone", "usr/sbin/init": "gone"}, want: []string{"/usr/lib/systemd/systemd or /lib/systemd/systemd", "/sbin/init", "systemd-sysv"}},
		"systemd leads outside":       {files: map[string]string{"usr/lib/systemd/systemd": "-> /../../../../../bin/systemd"}, want: []string{"the image has no systemd"}},
		"systemd is a FIFO":           {files: map[string]string{"usr/lib/systemd/systemd": "fifo"}, want: []string{"the image has no systemd"}},
		"/sbin/init leads in circles": {files: map[string]string{"usr/lib/systemd/systemd": "gone", "usr/sbin/init": "-> init"}, want: []string{"circle"}},
		"systemd is endless":          {files: map[string]string{"usr/lib/systemd/systemd": "x"}, edit: func(r *Request) { truncate(t, r.Rootfs+"/usr/lib/systemd/systemd", maxInit+1) }, want: []string{"more than"}},
		"/run leads outside":          {files: map[string]string{"run/": "gone", "run": "-> ../../../../../etc"}, want: []string{"/run of the image is a link to /etc", "build the image with one"}},
		"/run is a file":              {files: map[string]string{"run/": "gone", "run": "x"}, want: []string{"/run of the image is no folder but a file", "build the image with a folder there"}},
		"/tmp leads in circles":       {files: map[string]string{"tmp/": "gone", "tmp": "-> tmp"}, want: []string{"a folder at /tmp, build the image with one", "circle"}},
		"/run leads to nothing":       {files: map[string]string{"run/": "gone", "run": "-> /nowhere"}, want: []string{"/run of the image is a link that leads to no folder", "build the image with one"}},
		"/tmp is a FIFO":              {files: map[string]string{"tmp/": "gone", "tmp": "fifo"}, want: []string{"/tmp of the image is no folder but a FIFO"}},
		"machine-id is a folder":      {files: map[string]string{"etc/machine-id": "gone", "etc/machine-id/": ""}, want: []string{"/etc/machine-id of the image", "a folder", "put a plain file there"}},
		"machine-id is a FIFO":        {files: map[string]string{"etc/machine-id": "fifo"}, want: []string{"/etc/machine-id of the image", "a FIFO", "put a plain file there"}},
		"environment is a FIFO":       {files: map[string]string{"etc/environment": "fifo"}, want: []string{"/etc/environment of the image", "FIFO", "put a plain file there"}},
		"environment is endless":      {edit: func(r *Request) { truncate(t, r.Rootfs+"/etc/environment", maxText+1) }, want: []string{"/etc/environment of the image has more than", "put a shorter file there"}},
		"passwd is a device's link":   {files: map[string]string{"etc/passwd": "-> /loop", "loop": "-> /loop"}, want: []string{"circle"}},
		"a new systemd on v1":         {files: map[string]string{"usr/lib/systemd/systemd": "libsystemd-shared-258"}, want: []string{"systemd 258", "cgroup v2", "/sys/fs/cgroup/unified"}, class: errdefs.IsFailedPrecondition},
		"no hierarchy for systemd":    {node: Node{PouchInit: sealed("/x")}, want: []string{"name=systemd"}, class: errdefs.IsFailedPrecondition},
		"cgroups are mounted": {edit: func(r *Request) {
			r.Spec.Mounts[2] = specs.Mount{Destination: "/sys/fs/cgroup", Type: "bind", Source: "/sys/fs/cgroup"}
		}, want: []string{"/sys/fs/cgroup", "remove that mount"}},
		"the command is the init": {edit: args("/sbin/init"), want: []string{"command is the init /sbin/init itself", "sleep infinity"}},
		"a user without a way there": {edit: func(r *Request) {
			r.Spec.Process.User.UID, r.UIDs = 7, []IDMapping{{0, 1, 9}}
			r.Spec.Process.Capabilities = &specs.LinuxCapabilities{}
		}, want: []string{"CAP_SETUID"}},
		"another user":           {edit: func(r *Request) { r.Spec.Process.User.UID = 7 }, want: []string{"user 7"}, class: errdefs.IsPermissionDenied},
		"a shared pid namespace": {edit: func(r *Request) { r.Spec.Linux.Namespaces[1].Path = "/x" }, want: []string{"shareProcessNamespace"}},
		"units from nowhere":     {edit: func(r *Request) { r.Choice.Options.UnitsFrom = "/none" }, want: []string{"units-from", "/none"}},
		"units from the kernel":  {edit: func(r *Request) { r.Choice.Options.UnitsFrom = "/proc/self" }, want: []string{"units-from", "/proc"}},
		"an unknown component":   {edit: func(r *Request) { r.Choice.Options.Components = []string{"agent"} }, want: []string{"components", `"agent"`}},
	} {
		t.Run(name, func(t *testing.T) {
			r := request(t, Systemd, rootfs(t, debian(tc.files)))
			if tc.edit != nil {
				tc.edit(&r)
			}
			n := tc.node
			if n.PouchInit == nil {
				n = v1
			}
			if tc.class == nil {
				tc.class = errdefs.IsInvalidArgument
			}
			_, err := n.Prepare(r)
			wantError(t, err, tc.class, append(tc.want, "systemd mode (annotation rich.cri-pouch.io/mode)")...)
		})
	}
}

func truncate(t *testing.T, name string, size int64) {
	t.Helper()
	if err := os.Truncate(name, size); err != nil {
		t.Fatal(err)
	}
}

func TestUnitsThatAreRefused(t *testing.T) {
	needRoot(t)
	for name, tc := range map[string]struct{ file, content, want string }{
		"no unit's name":     {"web.conf", "x", "web.conf"},
		"one of ours":        {"pouch-app.service", "x", "belong to cri-pouch"},
		"a link to the host": {"secret.service", "-> /etc/shadow", "secret.service leads to nothing"},
		"a FIFO":             {"a.service", "fifo", "FIFO"},
		"a folder":           {"a.service/", "", "a folder"},
		"too large":          {"a.service", strings.Repeat("x", maxUnitFile+1), "more than"},
	} {
		t.Run(name, func(t *testing.T) {
			r := request(t, Systemd, rootfs(t, debian(nil)))
			r.Spec.Mounts = append(r.Spec.Mounts, specs.Mount{Destination: "/units", Type: "bind", Source: rootfs(t, map[string]string{tc.file: tc.content})})
			r.Choice.Options.UnitsFrom = "/units"
			_, err := v1.Prepare(r)
			wantError(t, err, errdefs.IsInvalidArgument, tc.want, "rich.cri-pouch.io/units-from", "/units")
		})
	}
	many := t.TempDir()
	for n := range maxUnits + 1 {
		if err := os.WriteFile(filepath.Join(many, "a"+strings.Repeat("b", n%200)+string(rune('a'+n/200))+".service"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r := request(t, Systemd, rootfs(t, debian(nil)))
	r.Spec.Mounts = append(r.Spec.Mounts, specs.Mount{Destination: "/units", Type: "bind", Source: many})
	r.Choice.Options.UnitsFrom = "/units"
	_, err := v1.Prepare(r)
	wantError(t, err, errdefs.IsInvalidArgument, "more than 256")
}

func TestWhatThePodMountsStays(t *testing.T) {
	needRoot(t)
	r := request(t, Systemd, rootfs(t, debian(map[string]string{"run/": "gone", "run": "-> /somewhere"})))
	for _, at := range []string{"/run", "/tmp", "/etc/machine-id"} {
		r.Spec.Mounts = append(r.Spec.Mounts, specs.Mount{Destination: at, Type: "bind", Source: "/x"})
	}
	if _, err := v1.Prepare(r); err != nil {
		t.Fatal(err)
	}
	for _, at := range []string{"/run", "/tmp", "/etc/machine-id"} {
		if n := countMounts(r.Spec, at); n != 1 {
			t.Errorf("%d mounts at %s", n, at)
		}
	}
}

func countMounts(sp *specs.Spec, at string) (n int) {
	for _, m := range sp.Mounts {
		if m.Destination == at {
			n++
		}
	}
	return n
}

func TestMachineIDs(t *testing.T) {
	for uid, want := range map[string]string{
		"0F5A3C7E-7D7E-4A5E-9B1A-2F3C4D5E6F70": "0f5a3c7e7d7e4a5e9b1a2f3c4d5e6f70", "0f5a3c7e7d7e4a5e9b1a2f3c4d5e6f70": "0f5a3c7e7d7e4a5e9b1a2f3c4d5e6f70",
	} {
		if got := machineID(uid); got != want {
			t.Errorf("%s: %s", uid, got)
		}
	}
	for _, uid := range []string{"", "cpt-1", "00000000-0000-0000-0000-000000000000"} {
		if got := machineID(uid); !hexDigits.MatchString(got) || got == strings.Repeat("0", 32) || got != machineID(uid) || got == machineID(uid+"x") {
			t.Errorf("%q: %s", uid, got)
		}
	}
}

func TestCgroupPaths(t *testing.T) {
	for in, want := range map[string]string{
		"/kubepods/pod1/c1": "/kubepods/pod1/c1", "kubepods-burstable-pod1.slice:cri-pouch:c1": "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-pouch-c1.scope",
		"-.slice:cri-pouch:c1": "/cri-pouch-c1.scope",
	} {
		if got := cgroupPath(in); got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
}

func TestTheApplicationsProcessCanBeKept(t *testing.T) {
	needRoot(t)
	r := request(t, Systemd, rootfs(t, debian(nil)))
	r.Spec.Process.Terminal = true
	r.Spec.Process.Env = append(r.Spec.Process.Env, "TERM=xterm")
	got, err := v1.Prepare(r)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(got.Process)
	if err != nil || !strings.Contains(string(b), `"terminal":true`) {
		t.Errorf("%s, %v", b, err)
	}
	// The terminal is the application's, not the init's.
	if !slices.Contains(r.Spec.Process.Env, "TERM=dumb") || !strings.Contains(made(t, r, "app"), "\x00eTERM=xterm\x00") || !strings.Contains(made(t, r, "app"), "\x00t/run/.pouch/terminal\x00") {
		t.Errorf("%+v", r.Spec.Process)
	}
}
