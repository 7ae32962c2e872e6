package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
	"github.com/cri-pouch/cri-pouch/integration/lab"
)

const richMode = "rich.cri-pouch.io/mode"

// pushImage makes an image of files and gives its reference.
func pushImage(t *testing.T, n *harness.Node, nameTag string, edit func(*v1.ConfigFile), files ...lab.File) string {
	t.Helper()
	layer, err := lab.Layer(files...)
	if err != nil {
		t.Fatal(err)
	}
	img, err := lab.Image(edit, layer)
	if err == nil {
		err = n.Images.Push(nameTag, img)
	}
	if err != nil {
		t.Fatal(err)
	}
	return lab.Domain + "/" + nameTag
}

// pushBusybox makes an image of busybox and further files.
func pushBusybox(t *testing.T, n *harness.Node, nameTag string, edit func(*v1.ConfigFile), files ...lab.File) string {
	t.Helper()
	base, err := lab.BusyboxFiles()
	if err != nil {
		t.Fatal(err)
	}
	return pushImage(t, n, nameTag, edit, append(files, base...)...)
}

// pidOne is the command line of a container's first process.
func pidOne(t *testing.T, c *harness.Container) string {
	t.Helper()
	return strings.Join(strings.Split(strings.TrimSuffix(c.Exec(t, "cat", "/proc/1/cmdline"), "\x00"), "\x00"), " ")
}

func TestDumbInitIsPidOneOfTheRichContainerOnly(t *testing.T) {
	n := harness.Start(t)
	p := n.RunPod(t, annotated(richMode+".rich", "dumb-init"))
	rich, plain := p.Run(t, "rich"), p.Run(t, "plain")
	if got := pidOne(t, rich); got != "/run/.pouch/init sleep 1000000" {
		t.Errorf("pid 1 of the rich container is %q", got)
	}
	if got := pidOne(t, plain); got != "sleep 1000000" {
		t.Errorf("pid 1 of the plain container is %q", got)
	}
	status := func() string {
		r, err := n.Daemon.Runtime.ContainerStatus(harness.Context(t), &runtime.ContainerStatusRequest{ContainerId: rich.ID, Verbose: true})
		if err != nil {
			t.Fatal(err)
		}
		return r.Info["info"]
	}
	check := func() {
		for _, want := range []string{`"mode":"dumb-init"`, `"by":"annotation rich.cri-pouch.io/mode.rich"`, `"argv":["sleep","1000000"]`} {
			if got := status(); !strings.Contains(got, want) {
				t.Errorf("the verbose status has no %s: %s", want, got)
			}
		}
	}
	check()
	n.KillDaemon(t)
	n.StartDaemon(t)
	check()
	// The daemon looks for children that are not its own any more: exec, stop and the exit code go on.
	if got := rich.Exec(t, "sh", "-c", "echo $HOSTNAME"); got != p.Config.Hostname+"\n" {
		t.Errorf("exec after a restart prints %q", got)
	}
	rich.Stop(t, 90)
	if s := rich.Status(t); s.ExitCode != 143 {
		t.Errorf("ended by SIGTERM with code %d", s.ExitCode)
	}
}

func TestDumbInitOfAnImage(t *testing.T) {
	n := harness.Start(t)
	own := pushBusybox(t, n, "rich:own", nil, lab.File{Name: "usr/bin/dumb-init", Mode: 0o755, Content: []byte("#!/bin/sh\n[ \"$1\" = -- ] || exit 99\nshift\necho \"the image's own\"\n\"$@\"\n")})
	binary, err := os.ReadFile(lab.Busybox)
	if err != nil {
		t.Fatal(err)
	}
	// Nothing but one static program: no shell, no folder, no /etc.
	static := pushImage(t, n, "rich:static", func(c *v1.ConfigFile) { c.Config.Cmd = []string{"/busybox", "cat", "/proc/1/cmdline"} },
		lab.File{Name: "busybox", Mode: 0o755, Content: binary})
	p := n.RunPod(t, annotated(richMode, "dumb-init"))
	if text, code := p.RunToEnd(t, "own", image(own, 0), harness.Command("echo", "a  b", "", "$x")); code != 0 || text != "the image's own\na  b  $x\n" {
		t.Errorf("code %d, %q", code, text)
	}
	readOnly := func(c *runtime.ContainerConfig) { c.Linux.SecurityContext.ReadonlyRootfs = true }
	for name, edit := range map[string]func(*runtime.ContainerConfig){"static": func(*runtime.ContainerConfig) {}, "read-only": readOnly} {
		text, code := p.RunToEnd(t, name, image(static, 0), func(c *runtime.ContainerConfig) { c.Command = nil }, edit)
		if want := "/run/.pouch/init\x00/busybox\x00cat\x00/proc/1/cmdline\x00\n"; code != 0 || text != want {
			t.Errorf("%s: code %d, %q, want %q", name, code, text, want)
		}
	}
}

func TestWhoElseChoosesDumbInit(t *testing.T) {
	n := harness.Start(t, harness.Config("runtime.handlers = ['vm']\nrich.handlers = ['vm=dumb-init']"))
	labelled := pushBusybox(t, n, "rich:label", func(c *v1.ConfigFile) { c.Config.Labels = map[string]string{"io.cri-pouch.rich.mode": "dumb-init"} })
	variables := pushBusybox(t, n, "rich:env", func(c *v1.ConfigFile) {
		c.Config.Env = append(c.Config.Env, "rich_mode=true", "rich_mode_launch_manner=dumb-init")
	})
	const script = "tr '\\0' ' ' </proc/1/cmdline; :"
	p := n.RunPod(t)
	for name, edit := range map[string]func(*runtime.ContainerConfig){"label": image(labelled, 0), "env": image(variables, 0)} {
		if text, _ := p.RunToEnd(t, name, harness.Sh(script), edit); !strings.HasPrefix(text, "/run/.pouch/init sh -c ") {
			t.Errorf("chosen by %s, pid 1 is %q", name, text)
		}
	}
	switched := n.RunPod(t, annotated(richMode+".label", "none"))
	if text, _ := switched.RunToEnd(t, "label", harness.Sh(script), image(labelled, 0)); !strings.HasPrefix(text, "sh -c ") {
		t.Errorf("switched off, pid 1 is %q", text)
	}
	ctx := harness.Context(t)
	cfg := n.PodConfig(t)
	r, err := n.Daemon.Runtime.RunPodSandbox(ctx, &runtime.RunPodSandboxRequest{Config: cfg, RuntimeHandler: "vm"})
	if err != nil {
		t.Fatal(err)
	}
	vm := &harness.Pod{ID: r.PodSandboxId, Config: cfg, Node: n}
	t.Cleanup(func() { vm.Remove(t) })
	if text, _ := vm.RunToEnd(t, "handler", harness.Sh(script)); !strings.HasPrefix(text, "/run/.pouch/init sh -c ") {
		t.Errorf("chosen by the handler, pid 1 is %q", text)
	}
}

func TestDumbInitEndsAsItsCommandDoes(t *testing.T) {
	p := harness.Start(t).RunPod(t, annotated(richMode, "dumb-init"))
	for script, want := range map[string]int32{"exit 0": 0, "exit 7": 7, "kill -9 $$": 137, "kill -SEGV $$": 139, "exec /no/such/program": 127} {
		if text, code := p.RunToEnd(t, fmt.Sprintf("c%d", want), harness.Sh(script)); code != want {
			t.Errorf("%q ends with %d, want %d: %s", script, code, want, text)
		}
	}
	// A child in a process group of its own, which a signal to pid 1 alone would never reach. Without a terminal the shell makes no groups.
	c := p.Run(t, "session", harness.Sh(`set -m
sh -c 'trap "echo child; exit 0" TERM; echo ready; while :; do sleep 0.1; done' &
trap 'echo parent; wait; exit 5' TERM
while :; do sleep 0.1; done`), func(c *runtime.ContainerConfig) { c.Tty = true })
	c.AwaitLog(t, "ready")
	c.Stop(t, 90)
	text, code := c.Ended(t)
	if code != 5 || !strings.Contains(text, "child") || !strings.Contains(text, "parent") || strings.Contains(text, "job control") {
		t.Errorf("code %d, %q", code, text)
	}
	quiet := p.Run(t, "deaf", harness.Sh("trap '' TERM; echo ready; while :; do sleep 1; done"))
	quiet.AwaitLog(t, "ready")
	quiet.Stop(t, 1)
	if s := quiet.Status(t); s.ExitCode != 137 {
		t.Errorf("a command that ignores SIGTERM ended with %d", s.ExitCode)
	}
}

func TestDumbInitLeavesNoZombies(t *testing.T) {
	p := harness.Start(t).RunPod(t, annotated(richMode, "dumb-init"))
	const orphans = 10000
	c := p.Run(t, "app", harness.Sh(fmt.Sprintf("i=0; while [ $i -lt %d ]; do ( : & ); i=$((i+1)); done; echo all; exec sleep 1000", orphans)))
	harness.Eventually(t, "all orphans were made", func() bool { // it takes longer than the log's reader waits
		for range 100 {
			if b, err := os.ReadFile(c.LogFile()); err == nil && strings.Contains(string(b), "all") {
				return true
			}
			c.Exec(t, "sleep", "0.2")
		}
		return false
	})
	harness.Eventually(t, "no zombie is left", func() bool {
		return !regexp.MustCompile(`(?m)^State:\s+Z`).MatchString(c.Exec(t, "sh", "-c", "cat /proc/[0-9]*/status"))
	})
	if got := pidOne(t, c); !strings.HasPrefix(got, "/run/.pouch/init ") {
		t.Errorf("pid 1 is %q", got)
	}
}

func TestDumbInitRunsAsTheAskedUser(t *testing.T) {
	p := harness.Start(t).RunPod(t, annotated(richMode, "dumb-init"))
	// What the "restricted" profile asks for.
	text, code := p.RunToEnd(t, "restricted", harness.Sh("id -u; id -g; id -G; awk '/^(Uid|NoNewPrivs|CapBnd|CapEff)/' /proc/1/status; touch /x 2>/dev/null || echo read-only; echo $K; pwd"),
		func(c *runtime.ContainerConfig) {
			s := c.Linux.SecurityContext
			s.RunAsUser, s.RunAsGroup, s.NoNewPrivs, s.ReadonlyRootfs = &runtime.Int64Value{Value: 1000}, &runtime.Int64Value{Value: 3000}, true, true
			s.Capabilities = &runtime.Capability{DropCapabilities: []string{"ALL"}}
			s.Seccomp = &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_RuntimeDefault}
			c.Envs, c.WorkingDir = []*runtime.KeyValue{{Key: "K", Value: []byte("a  b'\"$x")}}, "/home/app"
		})
	want := "1000\n3000\n3000 1500\nUid:\t1000\t1000\t1000\t1000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nNoNewPrivs:\t1\nread-only\na b'\"$x\n/home/app\n"
	if code != 0 || text != want {
		t.Errorf("code %d\n%s\nwant\n%s", code, text, want)
	}
}

func TestDumbInitInAUserNamespace(t *testing.T) {
	p := harness.Start(t).RunPod(t, annotated(richMode, "dumb-init"), inUserNamespace)
	c := p.Run(t, "app")
	if got := pidOne(t, c); got != "/run/.pouch/init sleep 1000000" {
		t.Errorf("pid 1 is %q", got)
	}
	if got := c.Exec(t, "cat", "/proc/self/uid_map"); !strings.Contains(got, "100000") {
		t.Errorf("the container has no user namespace: %q", got)
	}
}

func TestDumbInitGivesTheTerminalToItsCommand(t *testing.T) {
	p := harness.Start(t).RunPod(t, annotated(richMode, "dumb-init"))
	// The seventh field is the controlling terminal, the eighth its foreground process group.
	text, code := p.RunToEnd(t, "tty", harness.Sh("tty; cut -d' ' -f5,8 /proc/self/stat; exit 6"), func(c *runtime.ContainerConfig) { c.Tty = true })
	fields := strings.Fields(text)
	if code != 6 || len(fields) != 3 || fields[0] != "/dev/pts/0" || fields[1] != fields[2] {
		t.Errorf("code %d, %q", code, text)
	}
}

func TestDumbInitHasTerminalAndInput(t *testing.T) {
	p := harness.Start(t).RunPod(t, annotated(richMode, "dumb-init"))
	piped := p.Run(t, "piped", harness.Sh("read x; echo got $x; cat; echo the end; exit 4"), func(c *runtime.ContainerConfig) { c.Stdin, c.StdinOnce = true, true })
	s := piped.OpenAttach(t)
	s.Send(t, "first\nsecond\n")
	s.Await(t, "second\n")
	s.In.Close()
	if text, code := piped.Ended(t); code != 4 || text != "got first\nsecond\nthe end\n" {
		t.Errorf("code %d, %q", code, text)
	}
	// Job control works only for the session that owns the terminal.
	tty := p.Run(t, "tty", harness.Command("sh"), func(c *runtime.ContainerConfig) { c.Tty, c.Stdin = true, true })
	s = tty.OpenAttach(t)
	s.Send(t, "sleep 1000\n")
	harness.Eventually(t, "the shell's command runs", func() bool {
		return strings.Contains(tty.Exec(t, "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"), "sleep 1000")
	})
	s.Send(t, "\x03tty; exit 6\n")
	if text, code := tty.Ended(t); code != 6 || !strings.Contains(text, "/dev/pts/0") || strings.Contains(text, "job control") {
		t.Errorf("code %d, %q", code, text)
	}
}

func TestRichContainersThatAreRefused(t *testing.T) {
	n := harness.Start(t)
	hostile := pushBusybox(t, n, "rich:hostile", nil, lab.File{Name: "run", Link: "loop"}, lab.File{Name: "loop", Link: "run"})
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "program"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	up := strings.Repeat("../", 9) + dir[1:]
	outside := pushBusybox(t, n, "rich:outside", nil, lab.File{Name: "run", Link: up}, lab.File{Name: "usr/bin/dumb-init", Link: up + "/program"})
	for name, tc := range map[string]struct {
		pod       func(*runtime.PodSandboxConfig)
		container func(*runtime.ContainerConfig)
		code      codes.Code
		want      []string
	}{
		"an unknown mode":   {annotated(richMode, "upstart"), nil, codes.InvalidArgument, []string{"annotation " + richMode, "upstart", "systemd, sbin-init, dumb-init, none"}},
		"an unknown key":    {annotated("rich.cri-pouch.io/Mode", "systemd"), nil, codes.InvalidArgument, []string{"rich.cri-pouch.io/Mode is unknown"}},
		"a contradiction":   {annotated(richMode, "dumb-init", "rich.cri-pouch.io/restart", "always"), nil, codes.InvalidArgument, []string{"rich.cri-pouch.io/restart", "dumb-init mode"}},
		"links in a circle": {annotated(richMode, "dumb-init"), image(hostile, 0), codes.InvalidArgument, []string{"/run", "circle"}},
		"a shared pid namespace": {func(c *runtime.PodSandboxConfig) {
			annotated(richMode, "dumb-init")(c)
			c.Linux.SecurityContext.NamespaceOptions.Pid = runtime.NamespaceMode_POD
		}, nil, codes.InvalidArgument, []string{"shareProcessNamespace", richMode + ".app: none"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := n.RunPod(t, tc.pod)
			cfg := p.ContainerConfig("app")
			if tc.container != nil {
				tc.container(cfg)
			}
			n.Pull(t, cfg.Image.Image)
			_, err := p.TryCreate(harness.Context(t), cfg)
			wantCode(t, err, tc.code, tc.want...)
		})
	}
	t.Run("links out of the image stay in it", func(t *testing.T) {
		text, code := n.RunPod(t, annotated(richMode, "dumb-init")).RunToEnd(t, "app", image(outside, 0), harness.Sh("tr '\\0' ' ' </proc/1/cmdline"))
		if code != 0 || !strings.HasPrefix(text, "/run/.pouch/init sh -c ") {
			t.Errorf("code %d, %q", code, text)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
			t.Errorf("the folder on the host has %v, %v", entries, err)
		}
	})
}

// inUserNamespace gives the pod a user namespace of its own (hostUsers: false).
func inUserNamespace(c *runtime.PodSandboxConfig) {
	ids := []*runtime.IDMapping{{HostId: 100000, ContainerId: 0, Length: 65536}}
	c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &runtime.UserNamespace{Mode: runtime.NamespaceMode_POD, Uids: ids, Gids: ids}
}
