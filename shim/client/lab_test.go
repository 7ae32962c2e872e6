package client_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/hookrun"
	"github.com/cri-pouch/cri-pouch/shim/client"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

// needRoot skips what only root can do.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: containers are started")
	}
	if _, err := os.Stat("/bin/busybox"); err != nil {
		t.Skip("needs /bin/busybox (package busybox-static)")
	}
}

// buildShim builds the shim's binary once for all tests, as the Makefile does.
var buildShim = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "shim-bin")
	if err != nil {
		return "", err
	}
	binary := filepath.Join(dir, "containerd-shim-pouch-v2")
	cmd := exec.Command("go", "build", "-trimpath", "-tags", "seccomp netgo osusergo", "-ldflags", `-s -w -linkmode external -extldflags "-static"`,
		"-o", binary, "github.com/cri-pouch/cri-pouch/cmd/containerd-shim-pouch-v2")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the shim: %w\n%s", err, out)
	}
	return binary, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if binary, err := buildShim(); err == nil {
		_ = os.RemoveAll(filepath.Dir(binary))
	}
	os.Exit(code)
}

// lab is a shim of its own with a root filesystem to start containers on.
type lab struct {
	t       *testing.T
	ctx     context.Context
	options client.Options
	client  *client.Client
	state   string // on tmpfs, short enough for anything
	rootfs  string
	logs    string
	cgroup  string // parent of all containers' cgroups
	hook    *warnings
}

func newLab(t *testing.T) *lab {
	t.Helper()
	needRoot(t)
	binary, err := buildShim()
	if err != nil {
		t.Fatal(err)
	}
	state, err := os.MkdirTemp("/run", "shim-test")
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{t: t, state: state, rootfs: filepath.Join(state, "rootfs"), logs: filepath.Join(state, "logs"), hook: &warnings{}}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	l.ctx = ctx
	l.cgroup = "/" + filepath.Base(state)
	log := logrus.New()
	log.SetOutput(t.Output())
	log.AddHook(l.hook)
	l.options = client.Options{Binary: binary, StateDir: state, Log: logrus.NewEntry(log), Debug: true}
	l.makeRootfs()
	t.Cleanup(func() {
		l.end()
		cancel()
	})
	if l.client, err = client.Start(ctx, l.options); err != nil {
		t.Fatal(err)
	}
	return l
}

// warnings collects what the client logs.
type warnings struct {
	mu      sync.Mutex
	entries []string
}

func (w *warnings) Levels() []logrus.Level { return logrus.AllLevels }

func (w *warnings) Fire(e *logrus.Entry) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.entries = append(w.entries, e.Message)
	return nil
}

// end leaves nothing behind, whatever has happened, and says so when something was left.
func (l *lab) end() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*longEnough)
	defer cancel()
	if l.client != nil {
		if err := l.client.ShutdownByForce(ctx); err != nil {
			l.t.Errorf("end the shim: %v", err)
		}
	}
	for _, dir := range l.cgroups() {
		_ = unix.Rmdir(dir) // the parent, made by the first container
	}
	for _, dir := range l.cgroups() {
		l.t.Errorf("cgroup %s is left", dir)
	}
	if l.t.Failed() {
		b, _ := os.ReadFile(filepath.Join(l.state, "shim", "shim.log"))
		l.t.Logf("shim.log:\n%s", b)
	}
	if err := os.RemoveAll(l.state); err != nil {
		l.t.Error(err)
	}
}

// cgroups gives the lab's parent cgroups in all hierarchies.
func (l *lab) cgroups() []string {
	v1, _ := filepath.Glob("/sys/fs/cgroup/*" + l.cgroup)
	v2, _ := filepath.Glob("/sys/fs/cgroup" + l.cgroup)
	return append(v1, v2...)
}

// leftCgroups gives the cgroups of a container.
func (l *lab) leftCgroups(id string) []string {
	v1, _ := filepath.Glob("/sys/fs/cgroup/*" + l.cgroup + "/" + id)
	v2, _ := filepath.Glob("/sys/fs/cgroup" + l.cgroup + "/" + id)
	return append(v1, v2...)
}

func (l *lab) makeRootfs() {
	l.t.Helper()
	for _, d := range []string{"bin", "dev", "proc", "sys", "tmp", "etc", "root", "v"} {
		if err := os.MkdirAll(filepath.Join(l.rootfs, d), 0o755); err != nil {
			l.t.Fatal(err)
		}
	}
	if err := os.MkdirAll(l.logs, 0o755); err != nil {
		l.t.Fatal(err)
	}
	// The containers share the root filesystem, which those of a node never do: two of them would make this place at once.
	place := filepath.Join(l.rootfs, hookrun.Launcher)
	if err := os.MkdirAll(filepath.Dir(place), 0o755); err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(place, nil, 0o755); err != nil {
		l.t.Fatal(err)
	}
	b, err := os.ReadFile("/bin/busybox")
	if err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(l.rootfs, "bin/busybox"), b, 0o755); err != nil {
		l.t.Fatal(err)
	}
	for _, name := range strings.Fields("sh cat echo sleep ls seq head tail dd true false kill stty tty id yes grep readlink wc date printf test usleep setsid env") {
		if err := os.Symlink("busybox", filepath.Join(l.rootfs, "bin", name)); err != nil {
			l.t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(l.rootfs, "bin/not-executable"), []byte("#!/bin/sh\n"), 0o644); err != nil {
		l.t.Fatal(err)
	}
}

// caps are the default capabilities of container runtimes.
var caps = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
	"CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

// spec is an ordinary container's.
func (l *lab) spec(id string, args ...string) *specs.Spec {
	return &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: l.rootfs},
		Process: &specs.Process{
			Args: args, Cwd: "/", Env: []string{"PATH=/bin", "TERM=xterm"}, NoNewPrivileges: true,
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		},
		Hostname: "lab",
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
			{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=1777"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: l.cgroup + "/" + id,
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
				{Type: specs.MountNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.CgroupNamespace},
			},
			Resources: &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
		},
	}
}

// request writes a bundle and gives the request to create it, with a log.
func (l *lab) request(id string, spec *specs.Spec) task.CreateRequest {
	l.t.Helper()
	bundle := filepath.Join(l.state, "bundles", id)
	if err := os.MkdirAll(bundle, 0o700); err != nil {
		l.t.Fatal(err)
	}
	b, err := json.Marshal(spec)
	if err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), b, 0o600); err != nil {
		l.t.Fatal(err)
	}
	return task.CreateRequest{ID: id, Bundle: bundle, LogPath: l.logPath(id), Terminal: spec.Process.Terminal}
}

func (l *lab) logPath(id string) string { return filepath.Join(l.logs, id+".log") }

// run creates and starts a container.
func (l *lab) run(r task.CreateRequest) int {
	l.t.Helper()
	pid, err := l.client.Create(l.ctx, r)
	if err != nil {
		l.t.Fatal(err)
	}
	if _, err := l.client.Start(l.ctx, r.ID); err != nil {
		l.t.Fatal(err)
	}
	return pid
}

// shell runs a script as a container of its own.
func (l *lab) shell(id, script string) int {
	l.t.Helper()
	return l.run(l.request(id, l.spec(id, "sh", "-c", script)))
}

func (l *lab) wait(id string) task.Exit {
	l.t.Helper()
	exit, err := l.client.Wait(l.ctx, id, "")
	if err != nil {
		l.t.Fatal(err)
	}
	return exit
}

// finish waits for a container's end, deletes it and checks that nothing of it is left.
func (l *lab) finish(id string) task.Exit {
	l.t.Helper()
	l.wait(id)
	exit, err := l.client.Delete(l.ctx, id)
	if err != nil {
		l.t.Fatal(err)
	}
	l.gone(id)
	return exit
}

// gone checks that nothing is left of a container.
func (l *lab) gone(id string) {
	l.t.Helper()
	if left := l.leftCgroups(id); len(left) > 0 {
		l.t.Errorf("cgroups of %s are left: %v", id, left)
	}
	for _, dir := range []string{"containers", "libcontainer"} {
		if _, err := os.Stat(filepath.Join(l.state, "shim", dir, id)); !os.IsNotExist(err) {
			l.t.Errorf("state of %s in %s is left (%v)", id, dir, err)
		}
	}
}

func (l *lab) kill(id string) {
	l.t.Helper()
	if err := l.client.Kill(l.ctx, id, uint32(unix.SIGKILL), true); err != nil {
		l.t.Fatal(err)
	}
}

// record is one line of a CRI log.
type record struct {
	at      time.Time
	stream  string
	tag     string
	content string
}

// log reads and checks a container's log.
func (l *lab) log(id string) []record {
	l.t.Helper()
	return l.parse(l.logPath(id))
}

func (l *lab) parse(path string) []record {
	l.t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		l.t.Fatal(err)
	}
	var records []record
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if len(f) != 4 || !strings.HasSuffix(line, "\n") {
			l.t.Fatalf("malformed record %q", line)
		}
		at, err := time.Parse(time.RFC3339Nano, f[0])
		if err != nil {
			l.t.Fatal(err)
		}
		records = append(records, record{at, f[1], f[2], f[3]})
	}
	return records
}

// text gives the content of one stream of a log, as the kubelet would put it together.
func (l *lab) text(id, stream string) string {
	l.t.Helper()
	var b strings.Builder
	for _, r := range l.log(id) {
		if r.stream != stream {
			continue
		}
		b.WriteString(r.content)
		if r.tag == "F" {
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// longEnough is more than anything takes that is to come, on a machine that is busy with other things.
const longEnough = time.Minute

// eventually waits for what has no event of its own.
func (l *lab) eventually(what string, ok func() bool) {
	l.t.Helper()
	for until := time.Now().Add(longEnough); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(until) {
			l.t.Fatalf("timed out: %s", what)
		}
	}
}
