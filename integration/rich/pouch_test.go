package rich

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
	"github.com/cri-pouch/cri-pouch/integration/lab"
)

// The defects of PouchContainer's rich mode that other tests do not name: that CMD ran without environment, output, exit
// code and quoting is in app_test.go; SIGRTMIN+3, tmpfs and machine-id are in systemd_test.go.

func TestPouchContainersVariablesChooseTheMode(t *testing.T) {
	n := harness.Start(t)
	for manner, image := range map[string]string{"systemd": "systemd", "sbin-init": "busybox"} {
		t.Run(manner, func(t *testing.T) {
			ref := push(t, n, image, "variables", func(c *v1.ConfigFile) {
				c.Config.Env = append(c.Config.Env, "rich_mode=true", "rich_mode_launch_manner="+manner)
			})
			c := n.RunPod(t).Run(t, "app", probe(ref, "say=up", "wait", "exit=3"))
			c.AwaitLine(t, boot, "waiting")
			if got := c.Exec(t, "cat", "/proc/1/comm"); got != "systemd\n" && got != "init\n" {
				t.Errorf("pid 1 is %s", got)
			}
			c.Stop(t, 90)
			if s := c.Status(t); s.ExitCode != 3 {
				t.Errorf("code %d", s.ExitCode)
			}
		})
	}
}

// A mode that is misspelt was taken for another one.
func TestAMisspeltModeIsRefusedWhereverItStands(t *testing.T) {
	n := harness.Start(t)
	for name, test := range map[string]struct {
		edit  func(*v1.ConfigFile)
		pod   func(*runtime.PodSandboxConfig)
		parts []string
	}{
		"annotation": {nil, pod("sysd"), []string{"annotation " + prefix + "mode", "sysd"}},
		"label":      {func(c *v1.ConfigFile) { c.Config.Labels = map[string]string{"io.cri-pouch.rich.mode": "sysd"} }, pod(""), []string{"label io.cri-pouch.rich.mode", "sysd"}},
		"manner": {func(c *v1.ConfigFile) {
			c.Config.Env = append(c.Config.Env, "rich_mode=true", "rich_mode_launch_manner=sysd")
		}, pod(""),
			[]string{"variable rich_mode_launch_manner", "sysd"}},
		"switch": {func(c *v1.ConfigFile) { c.Config.Env = append(c.Config.Env, "rich_mode=yes") }, pod(""), []string{"variable rich_mode", "yes", "true or false"}},
	} {
		t.Run(name, func(t *testing.T) {
			ref := push(t, n, "static", name, test.edit)
			p := n.RunPod(t, test.pod)
			refused(t, p, codes.InvalidArgument, p.ContainerConfig("app", probe(ref, "exit=0")), test.parts...)
		})
	}
}

// An edited annotation is in force for the container's next attempt, whatever the sandbox was made with.
func TestAnEditOfTheModeIsInForceForTheNextAttempt(t *testing.T) {
	n := harness.Start(t)
	ref := push(t, n, "busybox", "1", nil)
	p := n.RunPod(t)
	for number, mode := range []string{"none", "sbin-init", "dumb-init", ""} {
		p.Config.Annotations = nil
		pod(mode)(p.Config)
		c := p.Run(t, "app", probe(ref, "wait", "exit=3"), attempt(uint32(number), mode))
		c.AwaitLine(t, boot, "waiting")
		want := map[string]string{"none": "probe\n", "sbin-init": "init\n", "dumb-init": "init\n", "": "probe\n"}[mode]
		if got := c.Exec(t, "cat", "/proc/1/comm"); got != want {
			t.Errorf("in mode %q pid 1 is %q, want %q", mode, got, want)
		}
		c.Stop(t, 90)
		if s := c.Status(t); s.ExitCode != 3 {
			t.Errorf("mode %q: code %d", mode, s.ExitCode)
		}
	}
}

// What the kubelet mounts into every container is seen, also below folders that the init finds empty.
func whatTheKubeletMountsIsSeen(t *testing.T, n *harness.Node, m machine, ref string) {
	dir := t.TempDir()
	for _, name := range []string{"token", "message"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name+"\n"), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	const account = "/var/run/secrets/kubernetes.io/serviceaccount"
	c := n.RunPod(t, pod(m.mode)).Run(t, "app", image(ref, "sh", "-c", "cat "+account+"/token; touch "+account+"/x 2>/dev/null || echo read-only; echo why >/dev/termination-log; exit 7"),
		func(c *runtime.ContainerConfig) {
			c.Mounts = []*runtime.Mount{
				{HostPath: dir, ContainerPath: account, Readonly: true},
				{HostPath: filepath.Join(dir, "message"), ContainerPath: "/dev/termination-log"},
			}
		})
	if text, code := c.Ended(t); code != 7 || text != "token\nread-only\n" {
		t.Errorf("code %d, log %q", code, text)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "message")); err != nil || string(b) != "why\n" {
		t.Errorf("the message is %q, %v", b, err)
	}
}

func TestAnImagesLabelChoosesTheMode(t *testing.T) {
	n := harness.Start(t)
	ref := push(t, n, "systemd", "label", func(c *v1.ConfigFile) { c.Config.Labels = map[string]string{"io.cri-pouch.rich.mode": "systemd"} })
	p := n.RunPod(t, pod("", "mode.plain", "none"))
	rich, plain := p.Run(t, "app", probe(ref, "wait")), p.Run(t, "plain", probe(ref, "wait"))
	rich.AwaitLine(t, boot, "waiting")
	plain.AwaitLine(t, boot, "waiting")
	if got := rich.Exec(t, "cat", "/proc/1/comm"); got != "systemd\n" {
		t.Errorf("pid 1 of the rich container is %s", got)
	}
	if got := plain.Exec(t, "cat", "/proc/1/comm"); got != "probe\n" {
		t.Errorf("pid 1 of the plain one is %s", got)
	}
}

// The image's command, not only the pod's, is the application.
func TestTheImagesOwnCommandIsTheApplication(t *testing.T) {
	n := harness.Start(t)
	ref := push(t, n, "systemd", "command", func(c *v1.ConfigFile) {
		c.Config.Entrypoint, c.Config.Cmd = []string{lab.Probe, "report", "say=reported"}, []string{"--", "of the image"}
		c.Config.Env = append(c.Config.Env, "OF=the image")
		c.Config.WorkingDir = "/srv"
	})
	c := n.RunPod(t, pod("systemd")).Run(t, "app", image(ref), func(c *runtime.ContainerConfig) { c.Command = nil })
	r := readReport(t, c)
	if got := words(r.Args); strings.Join(got[1:], "|") != "report|say=reported|--|of the image" || r.Dir != "/srv" || !strings.Contains(strings.Join(words(r.Env), "\n"), "OF=the image") {
		t.Errorf("%q in %s", got, r.Dir)
	}
}

// Its unit was written into the image's multi-user.target.wants, which need not be there.
func TestAnImageWithoutWantsFolder(t *testing.T) {
	n := harness.Start(t)
	ref := push(t, n, "systemd", "no-wants", nil, lab.File{Name: "etc/systemd/system/.wh.multi-user.target.wants"})
	if text, code := n.RunPod(t, pod("systemd")).RunToEnd(t, "app", probe(ref, "say=up", "exit=3")); text != "up\n" || code != 3 {
		t.Errorf("code %d, log %q", code, text)
	}
}

// What the init needs of us is mounted or lies on a tmpfs: the image's folders hold nothing of it.
func theImagesFilesAreLeftAlone(t *testing.T, n *harness.Node, m machine, ref string) {
	c := n.RunPod(t, pod(m.mode)).Run(t, "app", probe(ref, "wait", "exit=0"))
	c.AwaitLine(t, boot, "waiting")
	// A mount of ours over a file of the image is on another device.
	script := `find /etc /lib/ /usr/lib /sbin/ -xdev -type f -size -1000k ! -path '*/perl*' -exec grep -l 'run/[.]pouch' {} + 2>/dev/null; find /etc -xdev -name '*pouch*' -type f`
	if _, out := exec(t, c, "sh", "-c", script); without(out, "/etc/inittab", "/etc/profile.d/pouchenv.sh") != "" {
		t.Errorf("these files are ours: %s", out)
	}
	c.Stop(t, 90)
}

// without leaves out the lines of files that are mounted: a mounted file is listed with the folder that it is in.
func without(lines string, mounted ...string) string {
	var rest []string
	for _, line := range strings.Fields(lines) {
		if !slices.Contains(mounted, line) {
			rest = append(rest, line)
		}
	}
	return strings.Join(rest, " ")
}

// Values that hold quotes, equals signs and newlines reach login shells; PouchContainer dropped or broke them.
func TestLoginShellsSeeTheExactEnvironment(t *testing.T) {
	n := harness.Start(t)
	ref := push(t, n, "systemd", "1", nil)
	values := map[string]string{"EQUALS": "a=b=c", "QUOTES": `'"` + "`id`$(id)", "LINES": "one\ntwo", "EMPTY": "", "PERCENT": "%n %%", "UNICODE": "é", "SPACES": "  two  "}
	c := n.RunPod(t, pod("systemd")).Run(t, "app", probe(ref, "wait"), func(c *runtime.ContainerConfig) {
		for k, v := range values {
			c.Envs = append(c.Envs, variable(k, v))
		}
		// No shell can have it, and none must stumble over it.
		c.Envs = append(c.Envs, variable("not-a-name", "x"))
	})
	c.AwaitLine(t, boot, "waiting")
	for k, want := range values {
		r, err := n.Daemon.Runtime.ExecSync(harness.Context(t), &runtime.ExecSyncRequest{ContainerId: c.ID, Cmd: []string{"env", "-i", "sh", "-lc", `printf %s "$` + k + `"`}, Timeout: 20})
		if err != nil || string(r.Stdout) != want || r.ExitCode != 0 || len(r.Stderr) > 0 {
			t.Errorf("%s is %q, wanted %q (code %d, %s, %v)", k, r.GetStdout(), want, r.GetExitCode(), r.GetStderr(), err)
		}
	}
	if _, mode := exec(t, c, "stat", "-c", "%a %u", "/etc/profile.d/pouchenv.sh"); mode != "644 0" {
		t.Errorf("the file is %s", mode)
	}
}

func TestOneContainerOfThePodIsRich(t *testing.T) {
	n := harness.Start(t)
	ref := push(t, n, "busybox", "1", nil)
	p := n.RunPod(t, pod("", "mode.rich", "sbin-init"))
	rich, plain := p.Run(t, "rich", probe(ref, "wait", "exit=2")), p.Run(t, "plain", probe(ref, "wait", "exit=3"))
	rich.AwaitLine(t, boot, "waiting")
	plain.AwaitLine(t, boot, "waiting")
	if a, b := rich.Exec(t, "cat", "/proc/1/comm"), plain.Exec(t, "cat", "/proc/1/comm"); a != "init\n" || b != "probe\n" {
		t.Errorf("pid 1 is %q and %q", a, b)
	}
	rich.Stop(t, 90)
	if s := plain.Status(t); s.State != runtime.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the other container is %s", s.State)
	}
}

func TestContradictionsAreRefused(t *testing.T) {
	n := harness.Start(t)
	ref := push(t, n, "busybox", "1", nil)
	for name, test := range map[string]struct{ pairs, parts []string }{
		"unknown mode":        {[]string{"mode", "upstart"}, []string{prefix + "mode", "upstart", "systemd, sbin-init, dumb-init"}},
		"unknown policy":      {[]string{"mode", "sbin-init", "restart", "sometimes"}, []string{prefix + "restart", "sometimes"}},
		"negative limit":      {[]string{"mode", "sbin-init", "restart", "always", "restart-limit", "-1"}, []string{prefix + "restart-limit"}},
		"endless shutdown":    {[]string{"mode", "sbin-init", "shutdown-timeout", "1000h"}, []string{prefix + "shutdown-timeout"}},
		"after in sbin-init":  {[]string{"mode", "sbin-init", "after", "network-online.target"}, []string{"after", "systemd", "busybox"}},
		"no unit's name":      {[]string{"mode", "systemd", "watch-units", "../../etc/passwd"}, []string{prefix + "watch-units"}},
		"unknown annotation":  {[]string{"mode", "sbin-init", "restrat", "always"}, []string{prefix + "restrat"}},
		"restarts of nothing": {[]string{"mode", "sbin-init", "restart-limit", "3"}, []string{prefix + "restart-limit", prefix + "restart"}},
	} {
		t.Run(name, func(t *testing.T) {
			// A pod like that cannot even be made, or none of its containers can.
			r, err := n.Daemon.Runtime.RunPodSandbox(harness.Context(t), &runtime.RunPodSandboxRequest{Config: n.PodConfig(t, pod("", test.pairs...))})
			if err == nil {
				p := &harness.Pod{ID: r.PodSandboxId, Config: n.PodConfig(t, pod("", test.pairs...)), Node: n}
				t.Cleanup(func() { p.Remove(t) })
				refused(t, p, codes.InvalidArgument, p.ContainerConfig("app", probe(ref, "exit=0")), test.parts...)
				return
			}
			for _, part := range test.parts {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error is %q, wanted %q in it", err, part)
				}
			}
		})
	}
}

// A terminal is the application's and its user's, at each of its starts.
func aTerminal(t *testing.T, n *harness.Node, m machine, ref string) {
	const script = "test -t 0 && test -t 1 && test -t 2 && echo a terminal && echo opened again >$(tty); exit 4"
	tty := func(c *runtime.ContainerConfig) { c.Tty = true }
	restarting := pod(m.mode, "restart", "on-failure", "restart-limit", "2", "restart-interval", "10ms")
	text, code := n.RunPod(t, restarting).RunToEnd(t, "app", image(ref, "sh", "-c", script), tty)
	if once := "a terminal\nopened again\n"; code != 4 || text != once+once+once {
		t.Errorf("code %d, log %q", code, text)
	}
	text, code = n.RunPod(t, pod(m.mode), userns).RunToEnd(t, "app", image(ref, "sh", "-c", script), tty, func(c *runtime.ContainerConfig) {
		c.Linux.SecurityContext.RunAsUser, c.Linux.SecurityContext.RunAsGroup = &runtime.Int64Value{Value: 1000}, &runtime.Int64Value{Value: 1000}
	})
	if code != 4 || text != "a terminal\nopened again\n" {
		t.Errorf("of another user: code %d, log %q", code, text)
	}
}

// The daemon's death is not noticed inside, and what it missed is told afterwards.
func theDaemonsDeathIsNotNoticedInside(t *testing.T, n *harness.Node, m machine, ref string) {
	p := n.RunPod(t, pod(m.mode))
	stays, ends := p.Run(t, "stays", probe(ref, "wait", "exit=7")), p.Run(t, "ends", probe(ref, "wait", "exit=6"))
	stays.AwaitLine(t, boot, "waiting")
	ends.AwaitLine(t, boot, "waiting")
	booted(t, stays, m)
	before, said, app := lives(t, stays), stays.LogText(t), probePid(t, ends)
	n.KillDaemon(t)
	if err := unix.Kill(app, unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	ends.AwaitLine(t, boot, "asked 10")
	n.StartDaemon(t)
	after := lives(t, stays)
	for process := range before {
		if !after[process] {
			t.Errorf("process %s has ended", process)
		}
	}
	if now := stays.LogText(t); now != said { // the application says which signals it gets
		t.Errorf("the application said %q, now %q", said, now)
	}
	if _, code := ends.Ended(t); code != 6 {
		t.Errorf("the one that ended meanwhile has code %d", code)
	}
	stays.Stop(t, 90)
	if _, code := stays.Ended(t); code != 7 {
		t.Errorf("the one that stayed has code %d", code)
	}
}

// booted waits until the init has started everything: what only checks or prepares something has ended then. The other inits
// start the application after all else.
func booted(t *testing.T, c *harness.Container, m machine) {
	t.Helper()
	if slices.Contains(systemds, m.image) {
		exec(t, c, "systemctl", "is-system-running", "--wait")
	}
}

// lives are those of a container's processes that live as long as it does, by number, name and start.
func lives(t *testing.T, c *harness.Container) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	_, text := exec(t, c, "sh", "-c", "cat /proc/[0-9]*/stat")
	for line := range strings.Lines(text) {
		name, fields := line[:strings.LastIndexByte(line, ')')+1], strings.Fields(line[strings.LastIndexByte(line, ')')+1:])
		number, name, _ := strings.Cut(name, " ")
		if number == "1" || slices.Contains([]string{"(launch)", "(probe)", "(cron)", "(sshd)", "(rsyslogd)", "(systemd-journal)", "(dbus-daemon)"}, name) {
			out[number+" "+name+" "+fields[19]] = true
		}
	}
	if len(out) < 3 {
		t.Fatalf("only %v are seen: %s", out, text)
	}
	return out
}
