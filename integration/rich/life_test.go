package rich

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
	"github.com/cri-pouch/cri-pouch/integration/lab"
)

// A stop that comes while the init still starts its services ends the container, though its application never ran.
func aStopBeforeTheApplication(t *testing.T, n *harness.Node, m machine, ref string) {
	c := n.RunPod(t, pod(m.mode, "shutdown-timeout", "5m")).Run(t, "app", probe(ref, "wait", "exit=0"))
	begin := time.Now()
	c.Stop(t, 90)
	text, code := c.Ended(t)
	want := int32(143) // it never ran, or had not come as far as to take the signal
	if strings.Contains(text, "asked 15") {
		want = 0
	}
	if code != want || strings.Contains(text, "waiting") != (want == 0) {
		t.Errorf("code %d, log %q", code, text)
	}
	if took := time.Since(begin); took > harness.Patience(harness.LongEnough) {
		t.Errorf("the stop took %s", took)
	}
}

// The kubelet rotates the log of a rich container as that of any other.
func theLogIsRotated(t *testing.T, n *harness.Node, m machine, ref string) {
	c := n.RunPod(t, pod(m.mode)).Run(t, "app", probe(ref, "wait", "say=after", "err=after too", "exit=0"))
	c.AwaitLine(t, boot, "waiting")
	if err := os.Rename(c.LogFile(), c.LogFile()+".1"); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Daemon.Runtime.ReopenContainerLog(harness.Context(t), &runtime.ReopenContainerLogRequest{ContainerId: c.ID}); err != nil {
		t.Fatal(err)
	}
	c.Stop(t, 90)
	if text, _ := c.Ended(t); !strings.Contains(text, "asked 15\n") || !strings.Contains(text, "after too\n") || strings.Contains(text, "waiting") {
		t.Errorf("the new log is %q", text)
	}
}

// A read-only root filesystem keeps nothing of what we mount from the init.
func aReadOnlyRootFilesystem(t *testing.T, n *harness.Node, m machine, ref string) {
	// A script of the image may wait for ever until it can write something down.
	c := n.RunPod(t, pod(m.mode, "shutdown-timeout", "3s")).Run(t, "app", image(ref, "sh", "-c", "touch /x 2>/dev/null || echo read-only; touch /run/x && echo fine; exit 7"),
		func(c *runtime.ContainerConfig) { c.Linux.SecurityContext.ReadonlyRootfs = true })
	if text, code := c.Ended(t); code != 7 || text != "read-only\nfine\n" {
		t.Errorf("code %d, log %q", code, text)
	}
}

// Not even a privileged container's init can reboot the node.
func aPrivilegedOneCannotReboot(t *testing.T, n *harness.Node, m machine, ref string) {
	const sysBoot = 1 << 22
	c := n.RunPod(t, pod(m.mode), func(c *runtime.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true }).
		Run(t, "app", probe(ref, "report", "say=reported", "wait", "exit=2"), func(c *runtime.ContainerConfig) { c.Linux.SecurityContext.Privileged = true })
	r := readReport(t, c)
	_, init := exec(t, c, "sed", "-n", "s/^CapBnd:[[:space:]]*//p", "/proc/1/status")
	for who, set := range map[string]string{"the application": r.Status["CapBnd"], "the init": init} {
		if bits := hex(t, set); bits == 0 || bits&sysBoot != 0 {
			t.Errorf("%s has the capabilities %s", who, set)
		}
	}
	c.Stop(t, 90)
	if _, code := c.Ended(t); code != 2 {
		t.Errorf("code %d", code)
	}
}

// Whoever removes a running container, or its pod, ends all of it.
func itIsRemovedWhileItRuns(t *testing.T, n *harness.Node, m machine, ref string) {
	p := n.RunPod(t, pod(m.mode, "shutdown-timeout", "5m"))
	for _, remove := range []func(c *harness.Container){
		func(c *harness.Container) { c.Remove(t) },
		func(*harness.Container) { p.Remove(t) },
	} {
		c := p.Run(t, "app", probe(ref, "deaf", "leave=3", "wait", "exit=0"))
		c.AwaitLine(t, boot, "waiting")
		begin := time.Now()
		remove(c)
		if took := time.Since(begin); took > harness.Patience(harness.LongEnough) {
			t.Errorf("the removal took %s", took)
		}
		if left, err := n.Processes(); err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
		if _, err := os.Stat(filepath.Join(n.StateDir(), "containers", c.ID)); err == nil {
			t.Error("its folder is left")
		}
	}
}

// The daemon is killed while a rich container stops: that goes on, and whoever asks again gets its end.
func theDaemonDiesDuringAStop(t *testing.T, n *harness.Node, m machine, ref string) {
	c := n.RunPod(t, pod(m.mode)).Run(t, "app", probe(ref, "wait", "wait", "say=leaving", "exit=6"))
	c.AwaitLine(t, boot, "waiting")
	stop := func(ctx context.Context) error {
		_, err := n.Daemon.Runtime.StopContainer(ctx, &runtime.StopContainerRequest{ContainerId: c.ID, Timeout: 30})
		return err
	}
	ctx := harness.Context(t)
	gone := make(chan error, 1)
	go func() { gone <- stop(ctx) }()
	c.AwaitLine(t, boot, "asked 15")
	app := probePid(t, c)
	n.KillDaemon(t)
	if err := <-gone; err == nil {
		t.Error("the daemon was killed, the stop was answered")
	}
	if err := unix.Kill(app, unix.SIGUSR1); err != nil { // now it leaves
		t.Fatal(err)
	}
	c.AwaitLine(t, boot, "leaving")
	n.StartDaemon(t)
	if err := stop(ctx); err != nil {
		t.Fatal(err)
	}
	if text, code := c.Ended(t); code != 6 || !strings.Contains(text, "leaving\n") {
		t.Errorf("code %d, log %q", code, text)
	}
	if left, err := n.Processes(); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// The daemon is killed at each step of a start: the container that the kubelet then starts runs as if nothing had been.
func TestTheDaemonDiesDuringAStart(t *testing.T) {
	n := harness.Start(t, harness.Failpoints(t))
	ref := push(t, n, "busybox", "1", nil)
	for _, step := range []string{"container.prepared", "container.launching", "container.created", "container.started"} {
		for _, tty := range []bool{false, true} {
			t.Run(step+map[bool]string{true: " with a terminal"}[tty], func(t *testing.T) {
				p := n.RunPod(t, pod("sbin-init"))
				n.Pull(t, ref)
				c := &harness.Container{Pod: p, Config: p.ContainerConfig("app", probe(ref, "wait", "exit=5"), func(c *runtime.ContainerConfig) { c.Tty = tty })}
				n.TerminateDaemon(t)
				n.StartDaemon(t, "CRI_POUCH_FAILPOINTS="+step+"=kill")
				start := func() (err error) {
					if c.ID, err = p.TryCreate(harness.Context(t), c.Config); err == nil {
						_, err = n.Daemon.Runtime.StartContainer(harness.Context(t), &runtime.StartContainerRequest{ContainerId: c.ID})
					}
					return err
				}
				if err := start(); err == nil {
					t.Fatal("the daemon was to be killed")
				}
				<-n.Daemon.Gone()
				n.StartDaemon(t)
				if step != "container.started" {
					if err := start(); err != nil {
						t.Fatal(err)
					}
				}
				c.AwaitLine(t, boot, "waiting")
				c.Stop(t, 90)
				if text, code := c.Ended(t); code != 5 || strings.Count(text, "waiting") != 1 {
					t.Errorf("code %d, log %q", code, text)
				}
			})
		}
	}
}

// The application's end is the start of the shutdown, whatever the init: no time limit lies between them.
func TestTheShutdownBeginsAtOnce(t *testing.T) {
	n := harness.Start(t)
	const stamp = "#!/bin/sh\nread up idle </proc/uptime; echo $up >/witness/$1\n"
	for m, files := range map[machine][]lab.File{
		{"systemd", "systemd"}: service("late.service", "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\nExecStop=/usr/local/bin/stamp shutdown\n"),
		{"sysvinit", "sbin-init"}: {
			{Name: "etc/init.d/late", Mode: 0o755, Content: []byte("#!/bin/sh\n### BEGIN INIT INFO\n# Provides: late\n### END INIT INFO\n[ \"$1\" = stop ] && /usr/local/bin/stamp shutdown\n:\n")},
			{Name: "etc/init.d/.wh..depend.boot"}, {Name: "etc/init.d/.wh..depend.start"}, {Name: "etc/init.d/.wh..depend.stop"},
			{Name: "etc/rc0.d/K01late", Link: "../init.d/late"},
		},
		{"busybox", "sbin-init"}: {{Name: "etc/inittab", Content: []byte("::sysinit:/etc/init.d/rcS\n::shutdown:/usr/local/bin/stamp shutdown\n")}},
	} {
		t.Run(m.name(), func(t *testing.T) {
			ref := push(t, n, m.image, "at-once", nil, append(files, lab.File{Name: "usr/local/bin/stamp", Mode: 0o755, Content: []byte(stamp)})...)
			dir := t.TempDir()
			c := n.RunPod(t, pod(m.mode, "shutdown-timeout", "5m")).Run(t, "app", image(ref, "sh", "-c", "sleep 2; exec /usr/local/bin/stamp ended"), func(c *runtime.ContainerConfig) {
				c.Mounts = []*runtime.Mount{{HostPath: dir, ContainerPath: "/witness"}}
			})
			c.Ended(t)
			at := func(name string) time.Duration {
				b, err := os.ReadFile(filepath.Join(dir, name))
				if err != nil {
					t.Fatal(err)
				}
				d, err := time.ParseDuration(strings.TrimSpace(string(b)) + "s")
				if err != nil {
					t.Fatal(err)
				}
				return d
			}
			if took := at("shutdown") - at("ended"); took > harness.Patience(harness.LongEnough) {
				t.Errorf("it took %s", took)
			}
		})
	}
}

// Whom the node's administrator trusts gets an init that is root, beside an application that is not.
func TestTheAdministratorTrustsANamespaceOrAHandler(t *testing.T) {
	n := harness.Start(t, harness.Config("runtime.handlers = ['vm']\nrich.root_handlers = ['vm']\nrich.root_namespaces = ['trusted']\n"))
	ref := push(t, n, "busybox", "1", nil)
	run := func(namespace, handler string) *harness.Pod {
		cfg := n.PodConfig(t, pod("sbin-init"), func(c *runtime.PodSandboxConfig) { c.Metadata.Namespace = namespace })
		r, err := n.Daemon.Runtime.RunPodSandbox(harness.Context(t), &runtime.RunPodSandboxRequest{Config: cfg, RuntimeHandler: handler})
		if err != nil {
			t.Fatal(err)
		}
		p := &harness.Pod{ID: r.PodSandboxId, Config: cfg, Node: n}
		t.Cleanup(func() { p.Remove(t) })
		return p
	}
	restricted := func(c *runtime.ContainerConfig) {
		s := c.Linux.SecurityContext
		s.RunAsUser, s.RunAsGroup, s.NoNewPrivs = &runtime.Int64Value{Value: 1000}, &runtime.Int64Value{Value: 1000}, true
	}
	for _, p := range []*harness.Pod{run("trusted", ""), run("other", "vm")} {
		c := p.Run(t, "app", probe(ref, "report", "say=reported", "wait", "exit=3"), restricted)
		r := readReport(t, c)
		if r.UID != 1000 || r.GID != 1000 || r.Status["NoNewPrivs"] != "1" || hex(t, r.Status["CapEff"]) != 0 {
			t.Errorf("it runs as %d:%d with %v", r.UID, r.GID, r.Status)
		}
		if got := c.Exec(t, "id", "-u"); got != "1000\n" {
			t.Errorf("exec runs as %s", got)
		}
		c.Stop(t, 90)
		if s := c.Status(t); s.ExitCode != 3 {
			t.Errorf("code %d", s.ExitCode)
		}
	}
	p := run("other", "")
	refused(t, p, codes.PermissionDenied, p.ContainerConfig("app", probe(ref, "exit=0"), restricted), "user 1000", `namespace "other"`)
}
