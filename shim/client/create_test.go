package client_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/shim/task"
)

func isPID(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace }

func TestWhatCannotBeCreated(t *testing.T) {
	l := newLab(t)
	for name, c := range map[string]struct {
		change func(*specs.Spec)
		says   string
	}{
		"program missing":         {func(s *specs.Spec) { s.Process.Args = []string{"no-such-program"} }, `"no-such-program"`},
		"program missing by path": {func(s *specs.Spec) { s.Process.Args = []string{"/opt/none"} }, `"/opt/none"`},
		"program not executable":  {func(s *specs.Spec) { s.Process.Args = []string{"/bin/not-executable"} }, `"/bin/not-executable"`},
		"program is a folder":     {func(s *specs.Spec) { s.Process.Args = []string{"/etc"} }, `"/etc"`},
		"no arguments":            {func(s *specs.Spec) { s.Process.Args = nil }, "arguments"},
		"relative root":           {func(s *specs.Spec) { s.Root.Path = "rootfs" }, "root.path"},
		"no cgroup":               {func(s *specs.Spec) { s.Linux.CgroupsPath = "" }, "cgroupsPath"},
		"the root cgroup":         {func(s *specs.Spec) { s.Linux.CgroupsPath = "/x/.." }, "cgroupsPath"},
		"unknown rlimit":          {func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_X"}} }, "RLIMIT_X"},
		"mount source missing": {func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/m", Type: "bind", Source: "/no/such/source", Options: []string{"bind"}})
		}, "/no/such/source"},
	} {
		t.Run(name, func(t *testing.T) {
			spec := l.spec("bad", "true")
			c.change(spec)
			_, err := l.client.Create(l.ctx, l.request("bad", spec))
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v does not name %s", err, c.says)
			}
			if _, err := l.client.State(l.ctx, "bad"); !errdefs.IsNotFound(err) {
				t.Errorf("it is left: %v", err)
			}
			l.gone("bad")
		})
	}
	for name, r := range map[string]task.CreateRequest{
		"ID leaves the folder": {ID: "../x", Bundle: l.state},
		"empty ID":             {Bundle: l.state},
		"no bundle":            {ID: "x", Bundle: filepath.Join(l.state, "none")},
	} {
		if _, err := l.client.Create(l.ctx, r); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAFailedCreationLeavesNoDescriptor(t *testing.T) {
	l := newLab(t)
	spec := l.spec("bad", "true")
	spec.Process.Cwd = "/bin/busybox" // found out by runc's init, late
	fail := func() {
		if _, err := l.client.Create(l.ctx, l.request("bad", spec)); err == nil {
			t.Fatal("a file serves as working directory")
		}
	}
	fail() // some descriptors are opened once and kept
	before := l.descriptors()
	for range 3 {
		fail()
	}
	l.eventually("no more descriptors are open than before", func() bool { return len(l.descriptors()) <= len(before) })
}

// descriptors lists what the shim has open.
func (l *lab) descriptors() []string {
	l.t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", l.client.Pid())
	entries, err := os.ReadDir(dir)
	if err != nil {
		l.t.Fatal(err)
	}
	var list []string
	for _, e := range entries {
		if target, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil {
			list = append(list, target)
		}
	}
	return list
}

func TestStartThatCannotLog(t *testing.T) {
	l := newLab(t)
	for name, prepare := range map[string]func(path string) error{
		"folder missing":      func(path string) error { return os.Remove(filepath.Dir(path)) },
		"symlink":             func(path string) error { return os.Symlink(filepath.Join(l.state, "victim"), path) },
		"folder is a symlink": func(path string) error { d := filepath.Dir(path); _ = os.Remove(d); return os.Symlink(l.logs, d) },
		"FIFO":                func(path string) error { return exec.Command("mkfifo", path).Run() },
	} {
		t.Run(name, func(t *testing.T) {
			r := l.request("c", l.spec("c", "echo", "hi"))
			r.LogPath = filepath.Join(l.state, "log-of-"+strings.ReplaceAll(name, " ", "-"), "0.log")
			if err := os.Mkdir(filepath.Dir(r.LogPath), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := prepare(r.LogPath); err != nil {
				t.Fatal(err)
			}
			if _, err := l.client.Create(l.ctx, r); err != nil {
				t.Fatal(err)
			}
			if _, err := l.client.Start(l.ctx, "c"); err == nil {
				t.Error("it started")
			}
			if _, err := l.client.State(l.ctx, "c"); !errdefs.IsNotFound(err) {
				t.Errorf("it is left: %v", err)
			}
			l.gone("c")
		})
	}
	if _, err := os.Stat(filepath.Join(l.state, "victim")); !os.IsNotExist(err) {
		t.Error("a symlink was followed")
	}
}

func TestCreateTwiceAndWrongStates(t *testing.T) {
	l := newLab(t)
	r := l.request("c", l.spec("c", "sleep", "1000"))
	if _, err := l.client.Create(l.ctx, r); err != nil {
		t.Fatal(err)
	}
	if _, err := l.client.Create(l.ctx, r); !errdefs.IsAlreadyExists(err) {
		t.Errorf("second Create: %v", err)
	}
	if err := l.client.Pause(l.ctx, "c"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Pause before Start: %v", err)
	}
	if _, err := l.client.Start(l.ctx, "c"); err != nil {
		t.Fatal(err)
	}
	if _, err := l.client.Start(l.ctx, "c"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("second Start: %v", err)
	}
	if _, err := l.client.Delete(l.ctx, "c"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Delete while it runs: %v", err)
	}
	if err := l.client.Kill(l.ctx, "c", 99, false); !errdefs.IsInvalidArgument(err) {
		t.Errorf("signal 99: %v", err)
	}
	l.kill("c")
	l.wait("c")
	if err := l.client.Kill(l.ctx, "c", 9, false); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Kill after the end: %v", err)
	}
	l.finish("c")
	if err := l.client.Kill(l.ctx, "c", 9, false); !errdefs.IsNotFound(err) {
		t.Errorf("Kill after Delete: %v", err)
	}
	// One that was never started
	if _, err := l.client.Create(l.ctx, r); err != nil {
		t.Fatal(err)
	}
	if _, err := l.client.Delete(l.ctx, "c"); err != nil {
		t.Errorf("Delete before Start: %v", err)
	}
	l.gone("c")
}

// shimFigures are what must not grow: descriptors, threads in waits aside, and children.
func shimFigures(t *testing.T, pid int) (fds, children int) {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range threads {
		b, _ := os.ReadFile(f)
		children += len(strings.Fields(string(b)))
	}
	return len(entries), children
}

func TestManyStartsAtOnceLeaveNothing(t *testing.T) {
	l := newLab(t)
	l.shell("warm", "true")
	l.finish("warm")
	fds, _ := shimFigures(t, l.client.Pid())
	for range 2 {
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				id := fmt.Sprintf("c%d", i)
				r := l.request(id, l.spec(id, "sh", "-c", fmt.Sprintf("echo %d; exit %d", i, i)))
				if _, err := l.client.Create(l.ctx, r); err != nil {
					t.Error(err)
					return
				}
				if _, err := l.client.Start(l.ctx, id); err != nil {
					t.Error(err)
					return
				}
				if exit, err := l.client.Wait(l.ctx, id, ""); err != nil || exit.Code != uint32(i) {
					t.Errorf("%s: %+v, %v", id, exit, err)
				}
				if _, err := l.client.Delete(l.ctx, id); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for i := range 20 {
			l.gone(fmt.Sprintf("c%d", i))
		}
	}
	l.eventually("descriptors and children are back", func() bool {
		after, children := shimFigures(t, l.client.Pid())
		return after <= fds && children == 0
	})
}

func TestSecurity(t *testing.T) {
	l := newLab(t)
	spec := l.spec("c", "sh", "-c", "grep -E '^(NoNewPrivs|Seccomp|CapEff|CapBnd):' /proc/self/status; id -u; id -G; cat /proc/sys/kernel/core_pattern >/dev/null && echo readable; dd if=/dev/null of=/dev/zero count=0 2>/dev/null && echo zero")
	spec.Process.User = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{1002}}
	spec.Linux.MaskedPaths = []string{"/proc/kcore"}
	spec.Linux.ReadonlyPaths = []string{"/proc/sys"}
	spec.Linux.Seccomp = &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86_64},
		Syscalls: []specs.LinuxSyscall{{Names: []string{"kexec_load"}, Action: specs.ActErrno}},
	}
	spec.Process.Capabilities.Bounding = append([]string{"CAP_SYS_RESOURCE"}, caps...)
	low := -999
	spec.Process.OOMScoreAdj = &low
	files := uint64(4096)
	if !hostHas(t, unix.CAP_SYS_RESOURCE) {
		files = 1 << 30
	}
	spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: files, Soft: 1024}, {Type: "RLIMIT_CORE", Hard: 0, Soft: 0}}
	for range 2 {
		l.run(l.request("c", spec))
		l.finish("c")
	}
	text := l.text("c", "stdout")
	for _, want := range []string{"NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000", "1000\n", "1001 1002\n", "readable\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in:\n%s", want, text)
		}
	}
	if hostHas(t, unix.CAP_SYS_RESOURCE) {
		return
	}
	b, err := os.ReadFile(filepath.Join(l.state, "shim", "shim.log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, warning := range []string{"the host lacks CAP_SYS_RESOURCE", "RLIMIT_NOFILE cannot be raised"} {
		if n := strings.Count(string(b), warning); n != 1 {
			t.Errorf("%d warnings that say: %s", n, warning)
		}
	}
}

// hostHas says whether this process, and so the shim, has a capability.
func hostHas(t *testing.T, c int) bool {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "\nCapPrm:\t")
	set, err := strconv.ParseUint(rest[:16], 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	return set&(1<<c) != 0
}

func TestTheBinaryIsSmallAndKnowsNothingOfTheDaemon(t *testing.T) {
	binary, err := buildShim()
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(binary)
	if err != nil {
		t.Fatal(err)
	}
	if st.Size() > 10_500_000 {
		t.Errorf("the binary has %d bytes", st.Size())
	}
	out, err := exec.Command("go", "list", "-tags", "seccomp netgo osusergo", "-deps", "github.com/cri-pouch/cri-pouch/cmd/containerd-shim-pouch-v2").Output()
	if err != nil {
		t.Fatal(err)
	}
	const module = "github.com/cri-pouch/cri-pouch/"
	for pkg := range strings.Lines(string(out)) {
		pkg = strings.TrimSpace(pkg)
		own, ours := strings.CutPrefix(pkg, module)
		switch {
		case ours && !strings.HasPrefix(own, "internal/") && own != "shim" && own != "shim/task" && !strings.HasPrefix(own, "shim/api/") && own != "cmd/containerd-shim-pouch-v2":
			t.Errorf("the shim imports %s", pkg)
		case pkg == "net/http" || pkg == "google.golang.org/grpc" || strings.HasPrefix(pkg, "k8s.io/") || strings.HasPrefix(pkg, "github.com/containerd/containerd/v2"):
			t.Errorf("the shim imports %s", pkg)
		}
	}
	if out, err := exec.Command("file", binary).Output(); err == nil && !strings.Contains(string(out), "statically linked") {
		t.Errorf("the binary is not static: %s", out)
	}
}
