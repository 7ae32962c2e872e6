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

// runHostile creates and starts what an image asks for. It may be refused, with an error that a user understands, or run and end; it
// may not hang the daemon, lead out of the image or leave something behind.
func runHostile(t *testing.T, n *harness.Node, mode, ref string) {
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
	if took := time.Since(begin); took > harness.Patience(15*time.Second) {
		t.Errorf("the answer took %s", took)
	}
	switch {
	case err == nil:
		if s := c.Status(t); s.State == runtime.ContainerState_CONTAINER_RUNNING {
			c.Stop(t, 2)
		}
		if b, err := os.ReadFile(c.LogFile()); err == nil && bytes.Contains(b, []byte("SECRET")) {
			t.Errorf("the host's file was used: %s", b)
		}
	case status.Code(err) == codes.Internal || status.Code(err) == codes.Unknown && id == "" || strings.Contains(err.Error(), "SECRET"):
		t.Errorf("error is %v", err)
	}
	// The daemon serves others.
	if text, code := p.RunToEnd(t, "other", harness.Command("echo", "fine"), func(c *runtime.ContainerConfig) {
		c.Image = &runtime.ImageSpec{Image: harness.Busybox}
	}, func(*runtime.ContainerConfig) { p.Config.Annotations = map[string]string{prefix + "mode": "none"} }); text != "fine\n" || code != 0 {
		t.Errorf("another container: code %d, %q", code, text)
	}
}

func TestHostileImagesOfSystemd(t *testing.T) {
	n := harness.Start(t)
	b := newBait(t)
	out := climb + b.dir
	huge := bytes.Repeat([]byte("[Unit]\n#"), 1<<20)
	for name, files := range map[string][]lab.File{
		"run":             {{Name: ".wh.run"}, {Name: "run", Link: out}},
		"run, absolute":   {{Name: ".wh.run"}, {Name: "run", Link: b.dir}},
		"run, a file":     {{Name: ".wh.run"}, {Name: "run", Content: []byte("x")}},
		"run-lock":        {{Name: "run/.wh.lock"}, {Name: "run/lock", Link: out}},
		"tmp":             {{Name: ".wh.tmp"}, {Name: "tmp", Link: out}},
		"etc-systemd":     {{Name: "etc/.wh.systemd"}, {Name: "etc/systemd", Link: out}},
		"etc":             {{Name: ".wh.etc"}, {Name: "etc", Link: out}},
		"machine-id":      {{Name: "etc/.wh.machine-id"}, {Name: "etc/machine-id", Link: out + "/init"}},
		"profile.d":       {{Name: "etc/.wh.profile.d"}, {Name: "etc/profile.d", Link: out}},
		"pouchenv":        {{Name: "etc/profile.d/pouchenv.sh", Link: out + "/init"}},
		"pouch folder":    {{Name: "run/.pouch", Link: out}},
		"systemd itself":  {{Name: "lib/systemd/.wh.systemd"}, {Name: "lib/systemd/systemd", Link: out + "/init"}},
		"systemd, a loop": {{Name: "lib/systemd/.wh.systemd"}, {Name: "lib/systemd/systemd", Link: "systemd"}},
		"systemd, deaf": {{Name: "lib/systemd/.wh.systemd"}, {Name: "lib/systemd/systemd", Mode: 0o755,
			Content: []byte("#!/bin/sh\ntrap '' TERM INT HUP USR1 USR2 PWR QUIT\n/run/.pouch/launch &\nwhile :; do sleep 1; done\n")}},
		"sys":        {{Name: ".wh.sys"}, {Name: "sys", Link: out}},
		"huge files": {{Name: "etc/systemd/system/pouch-app.service", Content: huge}, {Name: "etc/machine-id", Content: huge}},
	} {
		t.Run(name, func(t *testing.T) {
			runHostile(t, n, "systemd", push(t, n, "systemd", strings.NewReplacer(" ", "", ",", "-").Replace(name), nil, files...))
			b.check(t)
		})
	}
}

func TestHostileImagesWithAnInittab(t *testing.T) {
	n := harness.Start(t)
	b := newBait(t)
	out := climb + b.dir
	for name, files := range map[string][]lab.File{
		"init":            {{Name: "sbin/.wh.init"}, {Name: "sbin/init", Link: out + "/init"}},
		"init, a loop":    {{Name: "sbin/.wh.init"}, {Name: "sbin/init", Link: "/sbin/init"}},
		"init, a folder":  {{Name: "sbin/.wh.init"}, {Name: "sbin/init/"}},
		"init, no binary": {{Name: "sbin/.wh.init"}, {Name: "sbin/init", Mode: 0o755, Content: bytes.Repeat([]byte("busybox sysvinit "), 1<<20)}},
		"init, deaf":      {{Name: "sbin/.wh.init"}, {Name: "sbin/init", Mode: 0o755, Content: []byte("#!/bin/sh\ntrap '' TERM INT HUP USR1 USR2 PWR QUIT\n/run/.pouch/launch &\nwhile :; do sleep 1; done\n")}},
		"sbin":            {{Name: ".wh.sbin"}, {Name: "sbin", Link: out}},
		"inittab":         {{Name: "etc/inittab", Link: out + "/inittab"}},
		"inittab, folder": {{Name: "etc/.wh.inittab"}, {Name: "etc/inittab/"}},
		"inittab, huge":   {{Name: "etc/inittab", Content: bytes.Repeat([]byte("::once:/bin/true\n"), 1<<20)}},
		"inittab, lines":  {{Name: "etc/inittab", Content: []byte("::once:/bin/true\x00\n\xff\xfe::::\n::respawn:" + strings.Repeat("x", 100000) + "\npch:2345:once:/bin/true\nno newline at the end")}},
		"inittab, ending": {{Name: "etc/inittab", Content: []byte("::once:/bin/true \\")}},
		"etc":             {{Name: ".wh.etc"}, {Name: "etc", Link: out}},
		"run":             {{Name: ".wh.run"}, {Name: "run", Link: out}},
	} {
		t.Run(name, func(t *testing.T) {
			runHostile(t, n, "sbin-init", push(t, n, "busybox", strings.NewReplacer(" ", "", ",", "-").Replace(name), nil, files...))
			b.check(t)
		})
	}
}

// A FIFO instead of a file makes a careless reader wait for ever.
func TestFIFOsInsteadOfFiles(t *testing.T) {
	n := harness.Start(t)
	for _, m := range []struct {
		machine
		path string
	}{{machine{"busybox", "sbin-init"}, "etc/inittab"}, {machine{"busybox", "sbin-init"}, "sbin/init"}, {machine{"systemd", "systemd"}, "lib/systemd/systemd"}, {machine{"systemd", "systemd"}, "etc/machine-id"},
		{machine{"systemd", "systemd"}, "etc/environment"}, {machine{"busybox", "sbin-init"}, "etc/passwd"}, {machine{"busybox", "dumb-init"}, "usr/bin/dumb-init"}} {
		t.Run(m.path, func(t *testing.T) {
			l, err := lab.FIFOLayer(m.path)
			if err != nil {
				t.Fatal(err)
			}
			img, err := lab.Image(func(*v1.ConfigFile) {}, append(base(t, m.image), l)...)
			if err == nil {
				err = n.Images.Push(m.image+":fifo-"+filepath.Base(m.path), img)
			}
			if err != nil {
				t.Fatal(err)
			}
			runHostile(t, n, m.mode, n.Ref(m.image+":fifo-"+filepath.Base(m.path)))
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
