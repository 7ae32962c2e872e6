package client_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/hookrun"
	"github.com/cri-pouch/cri-pouch/internal/richrun"
)

// pinned gives the path of a network namespace that is there as long as the test.
func (l *lab) pinned() string {
	l.t.Helper()
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid)
}

func TestWhatHooksSee(t *testing.T) {
	l := newLab(t)
	volume := filepath.Join(l.state, "volume")
	if err := os.Mkdir(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	const look = "for n in net mnt pid ipc uts cgroup; do readlink /proc/self/ns/$n; done; "
	spec := l.spec("c", "sh", "-c", look+"cat /v/prestart; echo app >>/v/prestart")
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/v", Type: "bind", Source: volume, Options: []string{"rbind", "rw"}})
	net := l.pinned()
	for i := range spec.Linux.Namespaces {
		if ns := &spec.Linux.Namespaces[i]; ns.Type == specs.NetworkNamespace {
			ns.Path = net
		}
	}
	r := l.withHooks("c", spec,
		[]hookrun.Hook{l.script("before", look+"echo $$ $PPID; cat /proc/self/cgroup; echo seen >/v/prestart; echo > /here")},
		[]hookrun.Hook{l.script("after", look+"cat /v/prestart; ls /here; cat")}) // stdin is empty
	l.run(r)
	if exit := l.finish("c"); exit.Code != 0 {
		t.Errorf("%+v", exit)
	}
	results := l.results(r)
	if got := outcomes(results); got != "prestart before succeeded 0, poststop after succeeded 0" {
		t.Fatalf("results %+v", results)
	}
	app, before, after := strings.Split(l.text("c", "stdout"), "\n"), strings.Split(results[0].Output, "\n"), strings.Split(results[1].Output, "\n")
	if !slices.Equal(app[:6], before[:6]) {
		t.Errorf("namespaces of the program %q, of the prestart hook %q", app[:6], before[:6])
	}
	if app[6] != "seen" {
		t.Errorf("the program sees %q", app[6])
	}
	if before[6] == "1 0" || !strings.HasSuffix(before[6], " 0") && !strings.Contains(results[0].Output, ":/hook\n") {
		t.Errorf("the prestart hook's process and cgroups are %q", before[6:])
	}
	if after[0] != app[0] {
		t.Errorf("the program's network is %s, the poststop hook's %s", app[0], after[0])
	}
	if got := strings.Join(after[6:], " "); got != "seen app /here " {
		t.Errorf("the poststop hook sees %q", got)
	}
}

func TestUserAndRightsOfHooks(t *testing.T) {
	l := newLab(t)
	if err := os.Chmod(l.state, 0o711); err != nil {
		t.Fatal(err)
	}
	hook := l.script("h", `id -u; id -g; id -G; grep -E 'Cap(Eff|Bnd)|NoNew' /proc/self/status; pwd; echo $X; ulimit -n; echo again >/dev/stdout; echo err >/dev/stderr`)
	admin := []string{"CAP_NET_ADMIN"}
	hook.Process.User = specs.User{UID: 1234, GID: 2345, AdditionalGids: []uint32{3456}}
	hook.Process.Capabilities = &specs.LinuxCapabilities{Bounding: admin, Effective: admin, Permitted: admin, Inheritable: admin, Ambient: admin}
	hook.Process.Cwd, hook.Process.Env = "/tmp", append(hook.Process.Env, "X=a 'b' $c")
	hook.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 100, Hard: 200}}
	root := l.script("root", "id -u; grep CapEff /proc/self/status")
	root.Process.Capabilities = &specs.LinuxCapabilities{Bounding: admin, Effective: admin, Permitted: admin}
	r := l.hooked("c", "true", []hookrun.Hook{hook, root}, []hookrun.Hook{hook, root})
	l.run(r)
	l.finish("c")
	for i, result := range l.results(r) {
		want := "1234\n2345\n2345 3456\nCapEff:\t0000000000001000\nCapBnd:\t0000000000001000\nNoNewPrivs:\t1\n/tmp\na 'b' $c\n100\nagain\nerr\n"
		if i%2 == 1 {
			want = "0\nCapEff:\t0000000000001000\n"
		}
		if result.Output != want {
			t.Errorf("%s: %q", result.Stage, result.Output)
		}
	}
}

func TestHooksInAUserNamespace(t *testing.T) {
	l := newLab(t)
	if err := os.Chmod(l.state, 0o711); err != nil {
		t.Fatal(err)
	}
	const base = 200000
	mapping := []specs.LinuxIDMapping{{ContainerID: 0, HostID: base, Size: 65536}}
	if err := filepath.WalkDir(l.rootfs, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, base, base)
	}); err != nil {
		t.Fatal(err)
	}
	spec := l.spec("c", "sh", "-c", "cat /v/x; exit 2")
	spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	spec.Linux.UIDMappings, spec.Linux.GIDMappings = mapping, mapping
	if err := os.MkdirAll(filepath.Join(l.rootfs, "run/.pouch"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(l.rootfs, hookrun.Launcher), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	hook := l.script("h", "id -u; echo x >>/v/x; cat /proc/self/uid_map; (sleep 1000 &); echo again >/dev/stdout")
	r := l.withHooks("c", spec, []hookrun.Hook{hook}, []hookrun.Hook{hook})
	l.run(r)
	if exit := l.finish("c"); exit.Code != 2 {
		t.Errorf("%+v", exit)
	}
	l.noHookLeft("c")
	for _, result := range l.results(r) {
		if f := strings.Fields(result.Output); result.Outcome != hookrun.Succeeded || !slices.Equal(f, []string{"0", "0", "200000", "65536", "again"}) {
			t.Errorf("%+v", result)
		}
	}
	if text := l.text("c", "stdout"); text != "x\n" {
		t.Errorf("the program says %q", text)
	}
}

func TestHooksOfAContainerWithATerminal(t *testing.T) {
	l := newLab(t)
	spec := l.spec("c", "sh", "-c", "tty; exit 2")
	spec.Process.Terminal = true
	hook := l.script("h", "tty; test -t 1 || echo no terminal")
	hook.Log = true
	r := l.withHooks("c", spec, []hookrun.Hook{hook}, []hookrun.Hook{hook})
	l.run(r)
	if exit := l.finish("c"); exit.Code != 2 {
		t.Errorf("%+v", exit)
	}
	l.noHookLeft("c")
	for _, result := range l.results(r) {
		if result.Outcome != hookrun.Succeeded || result.Output != "not a tty\nno terminal\n" {
			t.Errorf("%+v", result)
		}
	}
	if text := l.text("c", "stdout"); text != "[hook h] not a tty\n[hook h] no terminal\n/dev/pts/0\r\n[hook h] not a tty\n[hook h] no terminal\n" {
		t.Errorf("the log has %q", text)
	}
}

func TestHooksOfARichContainer(t *testing.T) {
	l := newLab(t)
	for id, tc := range map[string]struct{ app, how string }{
		"code":   {"cat /v/$ID; exit 42", "42//Error"},
		"signal": {"cat /v/$ID; kill -SEGV $$", "139/11/Error"},
		"done":   {"cat /v/$ID", "0//Completed"},
		// pid 1 has a cgroup of its own to manage, on cgroup v2 below the one with the limits.
		"delegate": {"cat /v/$ID", "0//Completed"},
	} {
		before, after := l.script("before", "echo before >>/v/"+id+"; (sleep 1000 &)"), l.script("after", "printf $POUCH_EXIT_CODE/$POUCH_SIGNAL/$POUCH_REASON; cat /v/"+id)
		plain := l.spec(id+"-after", "true")
		plain.Mounts = append(plain.Mounts, specs.Mount{Destination: hookrun.Launcher, Type: "bind", Source: l.launcher(), Options: []string{"ro", "bind"}})
		r := l.richly(id, "echo init >>/v/"+id+"\n"+service+forever, tc.app, func(spec *specs.Spec, plan *richrun.Plan, a *richrun.App) {
			plan.Delegate = id == "delegate"
			a.Env = append(a.Env, "ID="+id)
			if err := os.WriteFile(filepath.Join(l.state, "bundles", id, richrun.Dir, filepath.Base(hookrun.Launcher)), nil, 0o755); err != nil {
				t.Fatal(err)
			}
			spec.Mounts = append(spec.Mounts, plain.Mounts[len(plain.Mounts)-1])
		})
		plan := hookrun.Plan{Prestart: []hookrun.Hook{before}, Poststop: []hookrun.Hook{after}, PoststopSpec: plain}
		if err := plan.Write(r.Bundle); err != nil {
			t.Fatal(err)
		}
		l.run(r)
		l.finish(id)
		l.noHookLeft(id)
		if text := l.text(id, "stdout"); text != "before\ninit\n" {
			t.Errorf("%s: the application sees %q", id, text)
		}
		results := l.results(r)
		if len(results) != 2 || results[1].Output != tc.how+"before\ninit\n" {
			t.Errorf("%s: results %+v", id, results)
		}
	}
}

// sharedPIDs gives a container the pid namespace of the host.
func sharedPIDs(spec *specs.Spec) {
	spec.Linux.Namespaces = slices.DeleteFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace })
}

// A path below /proc means another process once the one that it was written for has ended.
func TestPoststopHooksKeepTheSharedPIDNamespace(t *testing.T) {
	l := newLab(t)
	holder := exec.Command("sleep", "1000")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = holder.Process.Kill()
		_ = holder.Wait()
	})
	shared := fmt.Sprintf("/proc/%d/ns/pid", holder.Process.Pid)
	want, err := os.Readlink(shared)
	if err != nil {
		t.Fatal(err)
	}
	spec := l.spec("c", "sh", "-c", "readlink /proc/self/ns/pid")
	for i := range spec.Linux.Namespaces {
		if ns := &spec.Linux.Namespaces[i]; ns.Type == specs.PIDNamespace {
			ns.Path = shared
		}
	}
	r := l.withHooks("c", spec, nil, []hookrun.Hook{l.script("h", "readlink /proc/self/ns/pid")})
	if _, err := l.client.Create(l.ctx, r); err != nil {
		t.Fatal(err)
	}
	plan, err := hookrun.ReadPlan(r.Bundle)
	if err != nil {
		t.Fatal(err)
	}
	for i := range plan.PoststopSpec.Linux.Namespaces {
		if ns := &plan.PoststopSpec.Linux.Namespaces[i]; ns.Type == specs.PIDNamespace {
			ns.Path = "/proc/1/ns/pid"
		}
	}
	if err := plan.Write(r.Bundle); err != nil {
		t.Fatal(err)
	}
	if _, err := l.client.Start(l.ctx, "c"); err != nil {
		t.Fatal(err)
	}
	l.finish("c")
	if results := l.results(r); len(results) != 1 || results[0].Output != want+"\n" || l.text("c", "stdout") != want+"\n" {
		t.Errorf("results %+v, the program is in %q, want %s", results, l.text("c", "stdout"), want)
	}
	l.noHookLeft("c")
}

func TestHooksThatFightBack(t *testing.T) {
	l := newLab(t)
	for id, tc := range map[string]struct {
		script, outcome string
	}{
		"kills its launcher": {"(setsid sleep 1000 &); kill -9 $PPID; sleep 1000", "failed 137"},
		"stops its launcher": {"(setsid sleep 1000 &); kill -STOP $PPID", "timeout 0"},
		"forks on":           {"f() { f | f & }; f & exec sleep 1000", "timeout 137"},
		"leaves what forks":  {"f() { f & f & }; f; exit 0", ""},
		"leaves its cgroup":  {"for d in /sys/fs/cgroup/*/ /sys/fs/cgroup/; do echo 0 >$d/cgroup.procs; done; kill -9 $PPID; sleep 1000", "failed 137"},
	} {
		for _, private := range []bool{true, false} {
			if id == "leaves its cgroup" && !private {
				continue // as host's root in the host's namespace it could go anywhere
			}
			name := fmt.Sprintf("%s-%t", strings.ReplaceAll(id, " ", "-"), private)
			hook := l.script("h", tc.script)
			hook.Timeout, hook.Ignore = 1500*time.Millisecond, true
			spec := l.spec(name, "sh", "-c", "exit 3")
			if !private {
				sharedPIDs(spec)
			}
			if strings.Contains(tc.script, "f()") { // a limit that holds on every host
				hook.Process.User.UID, hook.Process.Capabilities = 54321, nil
				hook.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NPROC", Soft: 200, Hard: 200}}
			}
			for i := range spec.Mounts {
				if m := &spec.Mounts[i]; m.Type == "cgroup" {
					m.Options = []string{"nosuid", "noexec", "nodev", "rw"}
				}
			}
			r := l.withHooks(name, spec, []hookrun.Hook{hook}, []hookrun.Hook{hook})
			l.run(r)
			if exit := l.finish(name); exit.Code != 3 {
				t.Errorf("%s: %+v", name, exit)
			}
			l.noHookLeft(name)
			want := fmt.Sprintf("prestart h %s, poststop h %s", tc.outcome, tc.outcome)
			got := outcomes(l.results(r))
			if private && strings.Contains(tc.script, "$PPID") { // pid 1 of a namespace takes no SIGKILL and no SIGSTOP from inside
				got, _, _ = strings.Cut(got, ", ")
				want, _, _ = strings.Cut(want, ", ")
			}
			if tc.outcome != "" && got != want {
				t.Errorf("%s: results %s", name, got)
			}
		}
	}
}

func TestAllPoststopHooksTogetherHaveAMinute(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	t.Parallel()
	l := newLab(t)
	slow := l.script("slow", "sleep 1000")
	slow.Timeout = 31 * time.Second
	r := l.hooked("c", "exit 3", nil, []hookrun.Hook{slow, slow, l.script("late", "true")})
	began := time.Now()
	l.run(r)
	if exit := l.finish("c"); exit.Code != 3 || !exit.ExitedAt.Before(time.Now().Add(-50*time.Second)) {
		t.Errorf("%+v", exit)
	}
	l.noHookLeft("c")
	if took := time.Since(began); took < 59*time.Second {
		t.Errorf("it took %s", took)
	}
	results := l.results(r)
	if got := outcomes(results); got != "poststop slow timeout 137, poststop slow timeout 137, poststop late skipped 0" {
		t.Errorf("results %s", got)
	}
}
