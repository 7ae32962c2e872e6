package rich

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
	"github.com/cri-pouch/cri-pouch/integration/lab"
)

// climb leads from anywhere in an image to the host's root, if somebody follows it there.
const climb = "../../../../../../../../../../.."

// bait is a folder of the host that hostile images point at. Nothing in it may change or be read.
type bait struct {
	dir    string
	before map[string]string
}

func newBait(t testing.TB) *bait {
	t.Helper()
	b := &bait{dir: t.TempDir()}
	for name, text := range map[string]string{"inittab": "::sysinit:/bin/echo SECRET\n", "init": "#!/bin/sh\necho SECRET\n", "units/bait.service": "SECRET\n"} {
		path := filepath.Join(b.dir, name)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if err == nil {
			err = os.WriteFile(path, []byte(text), 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(b.dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.before = b.look(t)
	return b
}

// look gives the folder's entries with mode, owner and content.
func (b *bait) look(t testing.TB) map[string]string {
	t.Helper()
	seen := map[string]string{}
	err := filepath.WalkDir(b.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		seen[path] = info.Mode().String() + info.ModTime().String()
		if info.Mode().IsRegular() {
			content, err := os.ReadFile(path)
			seen[path] += string(content)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return seen
}

func (b *bait) check(t testing.TB) {
	t.Helper()
	after := b.look(t)
	for path, was := range b.before {
		if after[path] != was {
			t.Errorf("%s was changed", path)
		}
	}
	if len(after) != len(b.before) {
		t.Errorf("the folder has %d entries, it had %d", len(after), len(b.before))
	}
}

// fate is what has to become of a container of a hostile image: it is refused, or it runs and ends.
type fate struct {
	refused []string // parts of the error: what is wrong, where, and what to do about it
	log     string   // of the application
	code    int32
	stopped bool // it does not end by itself
	byRunc  bool // it is refused as a plain container is, at its start
}

// ran is the fate of a container that is none the worse for its image.
func ran() fate { return fate{log: "up\n", code: 3} }

// neverRan is that of one whose init does not come to the application.
func neverRan() fate { return fate{code: 143, stopped: true} }

// refusal is the fate of one that cannot have the mode.
func refusal(parts ...string) fate { return fate{refused: append(parts, "annotation "+prefix+"mode")} }

// runHostile creates and starts what an image asks for and insists on its fate. Whatever that is, the image may not hang the
// daemon, lead out of itself or leave something behind.
func runHostile(t *testing.T, n *harness.Node, b *bait, mode, ref string, want fate) {
	t.Helper()
	options := []string{"shutdown-timeout", "2s"}
	if mode == "dumb-init" { // which knows no options
		options = nil
	}
	p := n.RunPod(t, pod(mode, options...))
	n.Pull(t, ref)
	c := &harness.Container{Config: p.ContainerConfig("app", probe(ref, "say=up", "exit=3")), Pod: p}
	begin := time.Now()
	id, err := p.TryCreate(harness.Context(t), c.Config)
	if err == nil {
		c.ID = id
		_, err = n.Daemon.Runtime.StartContainer(harness.Context(t), &runtime.StartContainerRequest{ContainerId: id})
	}
	if took := time.Since(begin); took > harness.Patience(harness.LongEnough) {
		t.Errorf("the answer took %s", took)
	}
	switch {
	case err != nil:
		wasRefused(t, err, want)
	case len(want.refused) > 0:
		t.Error("it was not refused")
	default:
		comesTo(t, c, want)
	}
	b.check(t)
	// The daemon serves others.
	if text, code := p.RunToEnd(t, "other", harness.Command("echo", "fine"), func(c *runtime.ContainerConfig) {
		c.Image = &runtime.ImageSpec{Image: harness.Busybox}
	}, func(*runtime.ContainerConfig) { p.Config.Annotations = map[string]string{prefix + "mode": "none"} }); text != "fine\n" || code != 0 {
		t.Errorf("another container: code %d, %q", code, text)
	}
}

func wasRefused(t *testing.T, err error, want fate) {
	t.Helper()
	if len(want.refused) == 0 || !want.byRunc && status.Code(err) != codes.InvalidArgument || strings.Contains(err.Error(), "SECRET") {
		t.Errorf("error is %v", err)
	}
	for _, part := range want.refused {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error is %q, wanted %q in it", err, part)
		}
	}
}

// comesTo waits for the end of a container, with everything in it.
func comesTo(t *testing.T, c *harness.Container, want fate) {
	t.Helper()
	if want.stopped {
		begin := time.Now()
		c.Stop(t, 3)
		if took := time.Since(begin); took > harness.Patience(harness.LongEnough) {
			t.Errorf("the stop took %s", took)
		}
	}
	if text, code := c.Ended(t); text != want.log || code != want.code {
		t.Errorf("code %d, log %q, wanted %d and %q", code, text, want.code, want.log)
	}
	if left, err := c.Pod.Node.Processes(); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// hostile is what an image has on top of a well-meaning one, and what comes of it.
type hostile struct {
	files []lab.File
	want  fate
}

func runAllHostile(t *testing.T, n *harness.Node, b *bait, m machine, cases map[string]hostile) {
	t.Helper()
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			ref := push(t, n, m.image, strings.NewReplacer(" ", "", ",", "-").Replace(name), nil, tc.files...)
			runHostile(t, n, b, m.mode, ref, tc.want)
		})
	}
}

// deafInit starts the application, and ignores whatever it is sent.
const deafInit = "trap '' TERM INT HUP USR1 USR2 PWR QUIT\n/run/.pouch/launch &\nwhile :; do sleep 1; done\n"

func TestHostileImagesOfSystemd(t *testing.T) {
	n := harness.Start(t)
	b := newBait(t)
	out := climb + b.dir
	huge := bytes.Repeat([]byte("[Unit]\n#"), 1<<20)
	// Debian's /lib is a link to usr/lib: an entry lib/… of a layer would replace that by a folder.
	systemd := func(f lab.File) []lab.File {
		f.Name = "usr/lib/systemd/systemd"
		return []lab.File{{Name: "usr/lib/systemd/.wh.systemd"}, f}
	}
	runAllHostile(t, n, b, machine{"systemd", "systemd"}, map[string]hostile{
		"run":             {[]lab.File{{Name: ".wh.run"}, {Name: "run", Link: out}}, refusal("/run of the image is a link that leads to no folder", "build the image with")},
		"run, absolute":   {[]lab.File{{Name: ".wh.run"}, {Name: "run", Link: b.dir}}, refusal("/run of the image is a link that leads to no folder")},
		"run, a file":     {[]lab.File{{Name: ".wh.run"}, {Name: "run", Content: []byte("x")}}, refusal("/run of the image is no folder but a file")},
		"run-lock":        {[]lab.File{{Name: "run/.wh.lock"}, {Name: "run/lock", Link: out}}, ran()},
		"tmp":             {[]lab.File{{Name: ".wh.tmp"}, {Name: "tmp", Link: out}}, refusal("/tmp", "circle", "build the image with")},
		"etc-systemd":     {[]lab.File{{Name: "etc/.wh.systemd"}, {Name: "etc/systemd", Link: out}}, ran()},
		"etc":             {[]lab.File{{Name: ".wh.etc"}, {Name: "etc", Link: out}}, ran()},
		"machine-id":      {[]lab.File{{Name: "etc/.wh.machine-id"}, {Name: "etc/machine-id", Link: out + "/init"}}, ran()},
		"profile.d":       {[]lab.File{{Name: "etc/.wh.profile.d"}, {Name: "etc/profile.d", Link: out}}, ran()},
		"pouchenv":        {[]lab.File{{Name: "etc/profile.d/pouchenv.sh", Link: out + "/init"}}, ran()},
		"pouch folder":    {[]lab.File{{Name: "run/.pouch", Link: out}}, ran()},
		"systemd itself":  {systemd(lab.File{Link: out + "/init"}), refusal("the image has no systemd", "install it in the image")},
		"systemd, a loop": {systemd(lab.File{Link: "systemd"}), refusal("/usr/lib/systemd/systemd", "circle")},
		"systemd, deaf":   {systemd(lab.File{Mode: 0o755, Content: []byte("#!/bin/sh\n" + deafInit)}), ran()},
		"sys":             {[]lab.File{{Name: ".wh.sys"}, {Name: "sys", Link: out}}, fate{refused: []string{`"/sys"`, "ordinary directory"}, byRunc: true}},
		"huge units":      {[]lab.File{{Name: "etc/systemd/system/pouch-app.service", Content: huge}, {Name: "etc/machine-id", Content: huge}}, ran()},
		"environment":     {[]lab.File{{Name: "etc/environment", Content: huge}}, refusal("/etc/environment", "more than")},
	})
}

func TestHostileImagesOfBusybox(t *testing.T) {
	n := harness.Start(t)
	b := newBait(t)
	out := climb + b.dir
	init := func(f lab.File) []lab.File {
		f.Name += "sbin/init"
		return []lab.File{{Name: "sbin/.wh.init"}, f}
	}
	text := func(content string) []lab.File { return []lab.File{{Name: "etc/inittab", Content: []byte(content)}} }
	runAllHostile(t, n, b, machine{"busybox", "sbin-init"}, map[string]hostile{
		"init":            {init(lab.File{Link: out + "/init"}), refusal("the image has no /sbin/init")},
		"init, a loop":    {init(lab.File{Link: "/sbin/init"}), refusal("/sbin/init", "circle")},
		"init, a folder":  {[]lab.File{{Name: "sbin/.wh.init"}, {Name: "sbin/init/"}}, refusal("/sbin/init", "a folder")},
		"init, no binary": {init(lab.File{Mode: 0o755, Content: bytes.Repeat([]byte("busybox sysvinit "), 1<<20)}), refusal("an init that is not known")},
		"init, deaf":      {init(lab.File{Mode: 0o755, Content: []byte("#!/bin/sh\n# BusyBox v0, it says\n" + deafInit)}), ran()},
		"sbin":            {[]lab.File{{Name: ".wh.sbin"}, {Name: "sbin", Link: out}}, refusal("the image has no /sbin/init")},
		"inittab":         {[]lab.File{{Name: "etc/inittab", Link: out + "/inittab"}}, ran()},
		"inittab, folder": {[]lab.File{{Name: "etc/.wh.inittab"}, {Name: "etc/inittab/"}}, refusal("/etc/inittab", "a folder")},
		"inittab, huge":   {text(strings.Repeat("::once:/bin/true\n", 1<<20)), refusal("/etc/inittab", "more than")},
		"inittab, lines":  {text("::once:/bin/true\x00\n\xff\xfe::::\n::respawn:" + strings.Repeat("x", 100000) + "\npch:2345:once:/bin/true\nno newline at the end"), ran()},
		"inittab, ending": {text("::once:/bin/true \\"), ran()},
		"inittab, hangs":  {text("::sysinit:/bin/sleep 1000000\n"), neverRan()},
		"etc":             {[]lab.File{{Name: ".wh.etc"}, {Name: "etc", Link: out}}, ran()},
		"run":             {[]lab.File{{Name: ".wh.run"}, {Name: "run", Link: out}}, refusal("/run of the image is a link that leads to no folder")},
	})
}

func TestHostileImagesOfSysvinit(t *testing.T) {
	n := harness.Start(t)
	b := newBait(t)
	out := climb + b.dir
	text := func(content string) []lab.File { return []lab.File{{Name: "etc/inittab", Content: []byte(content)}} }
	const begin = "id:2:initdefault:\n"
	runAllHostile(t, n, b, machine{"sysvinit", "sbin-init"}, map[string]hostile{
		"inittab":              {[]lab.File{{Name: "etc/.wh.inittab"}, {Name: "etc/inittab", Link: out + "/inittab"}}, ran()},
		"inittab, folder":      {[]lab.File{{Name: "etc/.wh.inittab"}, {Name: "etc/inittab/"}}, refusal("/etc/inittab", "a folder")},
		"inittab, huge":        {text(strings.Repeat("a:2:once:/bin/true\n", 1<<20)), refusal("/etc/inittab", "more than")},
		"inittab, lines":       {text(begin + "\x00\n\xff\xfe::::\nx1:2:respawn:" + strings.Repeat("x", 100000) + "\np+00:2:once:/bin/echo mine\nno newline at the end"), ran()},
		"inittab, ending":      {text(begin + "x1:2:once:/bin/true \\"), ran()},
		"inittab, hangs":       {text(begin + "si::sysinit:/bin/sleep 1000000\n"), neverRan()},
		"inittab, no levels":   {text("id::initdefault:\n"), neverRan()},
		"inittab, off at once": {text("id:0:initdefault:\n"), neverRan()},
		"inittab, stays":       {text(begin + "x1:0123456:respawn:/bin/sleep 1000000\n"), ran()},
		"init":                 {[]lab.File{{Name: "usr/sbin/.wh.init"}, {Name: "usr/sbin/init", Link: out + "/init"}}, refusal("the image has no /sbin/init")},
		"init, deaf": {[]lab.File{{Name: "usr/sbin/.wh.init"}, {Name: "usr/sbin/init", Mode: 0o755,
			Content: []byte("#!/bin/sh\n# /etc/inittab, /run/initctl\n" + deafInit)}}, ran()},
		"etc": {[]lab.File{{Name: ".wh.etc"}, {Name: "etc", Link: out}}, ran()},
	})
}

// A FIFO instead of a file, in the image or of the host, makes a careless reader wait for ever.
func TestFIFOsInsteadOfFiles(t *testing.T) {
	n := harness.Start(t)
	b := newBait(t)
	systemd, busybox, dumb := machine{"systemd", "systemd"}, machine{"busybox", "sbin-init"}, machine{"busybox", "dumb-init"}
	for _, tc := range []struct {
		machine
		path           string
		itself, linked fate // with a FIFO there, and with a link to one of the host
	}{
		{busybox, "etc/inittab", refusal("/etc/inittab", "a FIFO"), ran()},
		{busybox, "sbin/init", refusal("/sbin/init", "a FIFO"), refusal("the image has no /sbin/init")},
		{busybox, "etc/passwd", fate{refused: []string{"/etc/passwd of the image, which has to be a plain file"}}, ran()}, // as of a plain container
		{systemd, "usr/lib/systemd/systemd", refusal("the image has no systemd"), refusal("the image has no systemd")},
		{systemd, "etc/machine-id", refusal("/etc/machine-id", "a FIFO"), ran()},
		{systemd, "etc/environment", refusal("/etc/environment", "a FIFO"), ran()},
		{dumb, "usr/bin/dumb-init", ran(), ran()},
	} {
		t.Run(tc.path, func(t *testing.T) {
			fifo, err := lab.FIFOLayer(tc.path)
			if err != nil {
				t.Fatal(err)
			}
			name := filepath.Base(tc.path)
			img, err := lab.Image(func(*v1.ConfigFile) {}, append(base(t, tc.image), fifo)...)
			if err == nil {
				err = n.Images.Push(tc.image+":fifo-"+name, img)
			}
			if err != nil {
				t.Fatal(err)
			}
			runHostile(t, n, b, tc.mode, n.Ref(tc.image+":fifo-"+name), tc.itself)
			link := push(t, n, tc.image, "linked-"+name, nil, lab.File{Name: filepath.Join(filepath.Dir(tc.path), ".wh."+name)}, lab.File{Name: tc.path, Link: climb + b.dir + "/fifo"})
			runHostile(t, n, b, tc.mode, link, tc.linked)
		})
	}
}

// What root inside writes into the files that host and container share harms nobody but itself.
func theRecordIsNotTrusted(t *testing.T, n *harness.Node, m machine, ref string) {
	c := n.RunPod(t, pod(m.mode, "shutdown-timeout", "2s")).Run(t, "app", probe(ref, "wait", "exit=2"))
	c.AwaitLine(t, boot, "waiting")
	for _, script := range []string{"rm -rf /run/.pouch/*", "echo x >/run/.pouch/app", "ln -sf /etc/shadow /run/.pouch/record", "mount -o remount,rw /run/.pouch", "umount /run/.pouch"} {
		if code, _ := exec(t, c, "sh", "-c", script+" 2>/dev/null"); code == 0 && !strings.HasPrefix(script, "rm") {
			t.Errorf("%s: is allowed", script)
		}
	}
	exec(t, c, "sh", "-c", "x=$(head -c 300 /dev/zero | tr '\\0' x); i=0; while [ $i -lt 2000 ]; do echo \"start $i 1 1\nnonsense\nunit $x\"; i=$((i+1)); done >>/run/.pouch/record")
	shims, err := n.Daemon.Shims()
	if err != nil || len(shims) != 1 {
		t.Fatal(shims, err)
	}
	readers := map[string]int{"shim": shims[0], "daemon": n.Daemon.PID()}
	used, begun := map[string]time.Duration{}, time.Now()
	for name, pid := range readers {
		used[name] = cpuTime(t, pid)
	}
	exec(t, c, "sh", "-c", "timeout 3 sh -c 'while :; do echo; done >>/run/.pouch/record'")
	took := time.Since(begun)
	for name, pid := range readers {
		if used := cpuTime(t, pid) - used[name]; used > took/4 {
			t.Errorf("to read the record of %s took the %s %s of CPU time", took, name, used)
		} else {
			t.Logf("to read the record of %s took the %s %s of CPU time", took, name, used)
		}
	}
	exec(t, c, "sh", "-c", "head -c 30000000 /dev/zero >>/run/.pouch/record 2>/dev/null")
	c.Stop(t, 5)
	c.Ended(t)
	if s := c.Status(t); s.State != runtime.ContainerState_CONTAINER_EXITED {
		t.Errorf("the container is %s", s.State)
	}
	if left, err := n.Processes(); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if _, err := os.Stat("/etc/shadow"); errors.Is(err, unix.ENOENT) {
		t.Error("the host's file is gone")
	}
}

// cpuTime is what a process has used of CPUs (proc_pid_stat(5) utime and stime, in hundredths of a second).
func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	var sum time.Duration
	for _, field := range fields[11:13] {
		ticks, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += time.Duration(ticks) * 10 * time.Millisecond
	}
	return sum
}
