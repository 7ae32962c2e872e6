package richcontainer

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/richrun"
)

const sysvinitProgram = "ELF... /etc/inittab ... /run/initctl ..."

func TestInittabs(t *testing.T) {
	needRoot(t)
	const own = "# theirs\nid:2:initdefault:\nl2:2:wait:/etc/init.d/rc 2\np+00:2:once:/theirs\n1:2345:respawn:/sbin/getty --noclear 38400 tty1\nT0:23:respawn:/sbin/getty -L ttyS0 9600\nx:2:respawn:/bin/targetty\nz6:6:respawn:/sbin/sulogin --force\nl6:6:wait:/etc/init.d/rc 6\nlast:2:once:/bin/last"
	for name, tc := range map[string]struct {
		files    map[string]string
		want     string
		shutdown unix.Signal
	}{
		"sysvinit": {map[string]string{"sbin/init": sysvinitProgram, "etc/inittab": own}, "# theirs\nid:2:initdefault:\nl2:2:wait:/etc/init.d/rc 2\n# replaced by cri-pouch: p+00:2:once:/theirs\n" +
			"# no such terminal in a container: 1:2345:respawn:/sbin/getty --noclear 38400 tty1\n# no such terminal in a container: T0:23:respawn:/sbin/getty -L ttyS0 9600\nx:2:respawn:/bin/targetty\n# the container ends instead: z6:6:respawn:/sbin/sulogin --force\nl6:6:wait:/etc/init.d/rc 6\nlast:2:once:/bin/last\n" +
			"# by cri-pouch\np+00:12345:once:/run/.pouch/launch\np+pf:12345:powerfail:/sbin/shutdown -h now\n", unix.SIGPWR},
		"busybox":             {map[string]string{"bin/busybox": "x", "sbin/init": "-> ../bin/busybox", "etc/inittab": "::respawn:/bin/x\ntty1::askfirst:/sbin/getty tty1\n"}, "::respawn:/bin/x\n# no such terminal in a container: tty1::askfirst:/sbin/getty tty1\n# by cri-pouch\n::once:/run/.pouch/launch\n", unix.SIGUSR2},
		"busybox by its text": {map[string]string{"sbin/init": "BusyBox v1.35"}, "::sysinit:/etc/init.d/rcS\n# by cri-pouch\n::once:/run/.pouch/launch\n", unix.SIGUSR2},
		"an empty inittab":    {map[string]string{"bin/busybox": "x", "sbin/init": "-> ../bin/busybox", "etc/inittab": "\n"}, "\n# by cri-pouch\n::once:/run/.pouch/launch\n", unix.SIGUSR2},
	} {
		t.Run(name, func(t *testing.T) {
			r := request(t, SbinInit, rootfs(t, tc.files))
			if _, err := v1.Prepare(r); err != nil {
				t.Fatal(err)
			}
			if got := made(t, r, "inittab"); got != tc.want {
				t.Errorf("inittab\n%s\nwant\n%s", got, tc.want)
			}
			plan, err := richrun.ReadPlan(r.Bundle)
			if err != nil || plan.Mode != "sbin-init" || plan.Shutdown != int(tc.shutdown) || !plan.KillWhenAlone {
				t.Errorf("%+v, %v", plan, err)
			}
			if p := r.Spec.Process; !slices.Equal(p.Args, []string{"/sbin/init"}) || !slices.Contains(p.Env, "container=cri-pouch") {
				t.Errorf("pid 1 is %+v", p)
			}
			if m, _ := mountOf(r.Spec, "/etc/inittab"); m.Source != filepath.Join(r.Bundle, "rich", "inittab") || !slices.Contains(m.Options, "ro") {
				t.Errorf("%+v", m)
			}
		})
	}
}

func TestSystemdAsSbinInit(t *testing.T) {
	needRoot(t)
	r := request(t, SbinInit, rootfs(t, debian(nil)))
	if _, err := v1.Prepare(r); err != nil {
		t.Fatal(err)
	}
	if plan, err := richrun.ReadPlan(r.Bundle); err != nil || plan.Shutdown != sigrtmin3 || plan.KillWhenAlone || !slices.Equal(r.Spec.Process.Args, []string{"/usr/lib/systemd/systemd"}) {
		t.Errorf("%+v, %v, %v", plan, err, r.Spec.Process.Args)
	}
}

func TestInitsThatAreRefused(t *testing.T) {
	needRoot(t)
	for name, tc := range map[string]struct {
		files map[string]string
		edit  func(*Request)
		want  []string
	}{
		"none":                    {want: []string{"the image has no /sbin/init", "sysvinit-core"}},
		"a folder":                {files: map[string]string{"sbin/init/": ""}, want: []string{"/sbin/init", "is no program", "a folder"}},
		"a FIFO":                  {files: map[string]string{"sbin/init": "fifo"}, want: []string{"/sbin/init", "a FIFO"}},
		"an empty file":           {files: map[string]string{"sbin/init": ""}, want: []string{"is no program"}},
		"a link out of the image": {files: map[string]string{"sbin/init": "-> ../../../../../../bin/busybox"}, want: []string{"the image has no /sbin/init"}},
		"a circle":                {files: map[string]string{"sbin/init": "-> init"}, want: []string{"/sbin/init", "circle", "let them lead to"}},
		"runit":                   {files: map[string]string{"lib/runit/runit-init": "x", "sbin/init": "-> /lib/runit/runit-init"}, want: []string{"is runit, which is not supported", "sysvinit, busybox and systemd"}},
		"openrc":                  {files: map[string]string{"sbin/openrc-init": "x", "sbin/init": "-> openrc-init"}, want: []string{"is openrc-init, which is not supported"}},
		"openrc by its text":      {files: map[string]string{"sbin/init": "openrc"}, want: []string{"is openrc-init"}},
		"a script":                {files: map[string]string{"sbin/init": "#!/bin/sh\n"}, want: []string{"an init that is not known"}},
		"too large":               {files: map[string]string{"sbin/init": "x"}, edit: func(r *Request) { truncate(t, r.Rootfs+"/sbin/init", maxInit+1) }, want: []string{"/sbin/init of the image has more than", "put a shorter file there"}},
		"inittab is a FIFO":       {files: map[string]string{"sbin/init": sysvinitProgram, "etc/inittab": "fifo"}, want: []string{"/etc/inittab of the image", "FIFO", "put a plain file there"}},
		"inittab is endless":      {files: map[string]string{"sbin/init": sysvinitProgram, "etc/inittab": "x"}, edit: func(r *Request) { truncate(t, r.Rootfs+"/etc/inittab", maxText+1) }, want: []string{"/etc/inittab of the image has more than", "put a shorter file there"}},
		"passwd is a FIFO":        {files: map[string]string{"sbin/init": sysvinitProgram, "etc/passwd": "fifo"}, want: []string{"/etc/passwd of the image", "FIFO", "put a plain file there"}},
		"/run leads to nothing":   {files: map[string]string{"sbin/init": sysvinitProgram, "run": "-> /nowhere"}, want: []string{"/run of the image is a link that leads to no folder", "build the image with one"}},
		"inittab is mounted":      {files: map[string]string{"sbin/init": sysvinitProgram}, edit: mountAt("/etc/inittab"), want: []string{"/etc/inittab", "remove that mount"}},
		"an option of systemd":    {files: map[string]string{"sbin/init": sysvinitProgram}, edit: func(r *Request) { r.Choice.Options.WatchUnits = []string{"a.service"} }, want: []string{"watch-units", "sysvinit"}},
		"the init as the command": {files: map[string]string{"sbin/init": sysvinitProgram}, edit: args("/sbin/init", "3"), want: []string{"command is the init"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := request(t, SbinInit, rootfs(t, tc.files))
			if tc.edit != nil {
				tc.edit(&r)
			}
			_, err := v1.Prepare(r)
			wantError(t, err, errdefs.IsInvalidArgument, append(tc.want, "sbin-init mode (annotation rich.cri-pouch.io/mode)")...)
		})
	}
}

// A command that is the init is found in whatever way it is written; other programs of the same busybox are none.
func TestCommandsThatAreTheInit(t *testing.T) {
	needRoot(t)
	busybox := map[string]string{"bin/busybox": "BusyBox v1", "sbin/init": "-> ../bin/busybox", "bin/sleep": "-> busybox", "bin/linuxrc": "-> busybox", "run/": "", "opt/init": "x"}
	for name, tc := range map[string]struct {
		mode    Mode
		files   map[string]string
		args    []string
		env     []string
		cwd     string
		refused bool
	}{
		"its path":                  {SbinInit, busybox, []string{"/sbin/init"}, nil, "/", true},
		"its name":                  {SbinInit, busybox, []string{"init"}, nil, "/", true},
		"found in PATH":             {SbinInit, busybox, []string{"init"}, []string{"PATH=/opt/none:/sbin:/opt"}, "/", true},
		"another in PATH":           {SbinInit, busybox, []string{"init"}, []string{"PATH=/opt:/sbin"}, "/", false},
		"not in PATH":               {SbinInit, busybox, []string{"init"}, []string{"PATH=/usr/bin"}, "/", false},
		"from a folder":             {SbinInit, busybox, []string{"../sbin/init"}, nil, "/opt", true},
		"an applet":                 {SbinInit, busybox, []string{"/bin/busybox", "init"}, nil, "/", true},
		"an applet, by name":        {SbinInit, busybox, []string{"busybox", "linuxrc"}, nil, "/", true},
		"another name":              {SbinInit, busybox, []string{"/bin/linuxrc"}, nil, "/", true},
		"a command of it":           {SbinInit, busybox, []string{"/bin/sleep", "1"}, nil, "/", false},
		"a command, by name":        {SbinInit, busybox, []string{"sleep", "init"}, nil, "/", false},
		"another applet":            {SbinInit, busybox, []string{"busybox", "sleep", "init"}, nil, "/", false},
		"busybox alone":             {SbinInit, busybox, []string{"busybox"}, nil, "/", false},
		"systemd by the name init":  {Systemd, debian(nil), []string{"init"}, nil, "/", true},
		"systemd":                   {Systemd, debian(nil), []string{"/lib/systemd/systemd", "--system"}, nil, "/", true},
		"systemd, but not from /":   {Systemd, debian(nil), []string{"./systemd"}, nil, "/usr/lib/systemd", true},
		"what is nowhere to be had": {Systemd, debian(nil), []string{"server"}, nil, "/", false},
	} {
		t.Run(name, func(t *testing.T) {
			r := request(t, tc.mode, rootfs(t, tc.files))
			r.Spec.Process.Args, r.Spec.Process.Env, r.Spec.Process.Cwd = tc.args, tc.env, tc.cwd
			_, err := v1.Prepare(r)
			if tc.refused {
				wantError(t, err, errdefs.IsInvalidArgument, "command is the init "+tc.args[0], "sleep infinity", "mode (annotation rich.cri-pouch.io/mode)")
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}

// awkward are values that shells, pam_env and systemd each would change in another way.
var awkward = []string{"", "plain", " spaces ", `it's "quoted"`, `back\slash`, "$HOME `id` ${x}", "a=b=c", "#no comment", "é", "%n", "tab\t", "'", `"`}

func TestShellsTakeTheEnvironmentAsItIs(t *testing.T) {
	env := []string{"not-a-name=x", "HOME=/elsewhere", "MULTI=line\nline", "LAST='"}
	var want []string
	for i, v := range awkward {
		env = append(env, "V"+string(rune('a'+i))+"="+v)
		want = append(want, v)
	}
	script := filepath.Join(t.TempDir(), "env.sh")
	if err := os.WriteFile(script, profileScript(env), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", "-c", `. "$1"; printf '%s\0' "$Va" "$Vb" "$Vc" "$Vd" "$Ve" "$Vf" "$Vg" "$Vh" "$Vi" "$Vj" "$Vk" "$Vl" "$Vm" "$MULTI" "$LAST" "$HOME"`, "sh", script)
	cmd.Env = []string{"HOME=/own", "PATH=/usr/bin:/bin"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want = append(want, "line\nline", "'", "/own")
	if got := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00"); !slices.Equal(got, want) {
		t.Errorf("a shell has\n%q\nwant\n%q", got, want)
	}
}

func TestTheEnvironmentForPAM(t *testing.T) {
	got := string(environmentFile([]byte("OWN=1"), []string{"A=b c", "HOME=/x", "MULTI=a\nb", "Q=say \"x\"", "LONG=" + strings.Repeat("x", 2000), "HASH=ab#cd", "RETURN=a\rb", "bad-name=1"}))
	if want := "OWN=1\n# The container's environment, by cri-pouch.\nA=\"b c\"\nQ='say \"x\"'\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// looked are the things of an image that are looked at, and the links on the way.
var looked = []string{"./lib", "./bin", "./sbin", "./run", "./tmp", "./etc", "./etc/profile.d", "./etc/pam.d", "./etc/passwd", "./etc/machine-id", "./etc/environment", "./etc/inittab", "*/sbin/init", "*/systemd/systemd", "*/runit-init", "*/openrc-init", "*/dumb-init"}

// Debian's own systemd and inits, where integration/scripts/rich-images.sh has built them.
func TestRealImages(t *testing.T) {
	needRoot(t)
	for name, tc := range map[string]struct {
		mode Mode
		want string
	}{
		"systemd": {Systemd, "/usr/lib/systemd/systemd"}, "trixie": {Systemd, "/usr/lib/systemd/systemd"}, "bullseye": {Systemd, "/lib/systemd/systemd"},
		"sysvinit": {SbinInit, "/sbin/init"}, "runit": {SbinInit, "refused: is runit"}, "openrc": {SbinInit, "refused: /sbin/init"}, "dumb-init": {DumbInit, "/usr/bin/dumb-init"},
	} {
		t.Run(name, func(t *testing.T) {
			tar := filepath.Join("../build/rich", name+".tar")
			if _, err := os.Stat(tar); err != nil {
				t.Skipf("%v: make rich-images-all", err)
			}
			root := t.TempDir()
			if out, err := exec.Command("tar", append([]string{"-xf", tar, "-C", root, "--no-recursion", "--wildcards"}, looked...)...).CombinedOutput(); err != nil && !strings.Contains(string(out), "Not found") {
				t.Fatalf("%v: %s", err, out)
			}
			r := request(t, tc.mode, root)
			_, err := v1.Prepare(r)
			if part, refused := strings.CutPrefix(tc.want, "refused: "); refused {
				wantError(t, err, errdefs.IsInvalidArgument, part)
				return
			}
			if err != nil || r.Spec.Process.Args[0] != tc.want {
				t.Errorf("%v, %v", r.Spec.Process.Args, err)
			}
			_, profile := mountOf(r.Spec, "/etc/profile.d/pouchenv.sh")
			if hasFolder := tc.mode != DumbInit; hasFolder != (profile >= 0) {
				t.Errorf("login shells: mount %d", profile)
			}
		})
	}
}
