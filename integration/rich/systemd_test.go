package rich

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
	"github.com/cri-pouch/cri-pouch/integration/lab"
)

// What must hold of every systemd.
func TestEverySystemd(t *testing.T) {
	var list []machine
	for _, name := range systemds {
		list = append(list, machine{name, "systemd"})
	}
	each(t, list, func(t *testing.T, n *harness.Node, m machine, ref string) {
		t.Run("is healthy", func(t *testing.T) { systemdIsHealthy(t, waiting(t, n, ref)) })
		t.Run("is healthy in a user namespace", func(t *testing.T) { systemdIsHealthy(t, waiting(t, n, ref, userns)) })
		t.Run("knows that it is a container", func(t *testing.T) { systemdKnowsThatItIsAContainer(t, waiting(t, n, ref)) })
		t.Run("its services work", func(t *testing.T) {
			systemdsServicesWork(t, waiting(t, n, push(t, n, m.image, "services", nil,
				lab.File{Name: "etc/cron.d/lab", Content: []byte("@reboot root env >/tmp/cron.new; mv /tmp/cron.new /tmp/cron-ran\n")},
				lab.File{Name: "root/.ssh/", Mode: 0o700})))
		})
		t.Run("the shutdown runs each ExecStop", func(t *testing.T) {
			shutdownRunsEachExecStop(t, n, push(t, n, m.image, "witness", nil, service("witness.service", witness)...))
		})
	})
}

// waiting runs a probe in systemd mode that waits for its stop.
func waiting(t *testing.T, n *harness.Node, ref string, edits ...func(*runtime.PodSandboxConfig)) *harness.Container {
	t.Helper()
	p := n.RunPod(t, append([]func(*runtime.PodSandboxConfig){pod("systemd")}, edits...)...)
	c := p.Run(t, "app", probe(ref, "wait", "exit=0"), func(c *runtime.ContainerConfig) {
		c.Envs = []*runtime.KeyValue{variable("GREETING", "it's \"$HOME\" = %n")}
	})
	c.AwaitLine(t, boot, "waiting")
	return c
}

// healthy waits until the init has started everything and fails the test unless all of it runs.
func healthy(t *testing.T, c *harness.Container) {
	t.Helper()
	if _, state := exec(t, c, "systemctl", "is-system-running", "--wait"); state != "running" {
		_, failed := exec(t, c, "systemctl", "--failed", "--no-legend", "--no-pager")
		_, jobs := exec(t, c, "systemctl", "list-jobs", "--no-pager")
		t.Errorf("the system is %s; failed: %s; jobs: %s", state, failed, jobs)
	}
}

func systemdIsHealthy(t *testing.T, c *harness.Container) {
	healthy(t, c)
	for _, unit := range []string{"systemd-journald", "cron", "rsyslog", "ssh", "dbus", "basic.target", "multi-user.target"} {
		if _, state := exec(t, c, "systemctl", "is-active", unit); state != "active" {
			t.Errorf("%s is %s", unit, state)
		}
	}
}

// What a service needs of a machine is there.
func systemdsServicesWork(t *testing.T, c *harness.Container) {
	healthy(t, c)
	t.Run("journald", func(t *testing.T) {
		if code, out := exec(t, c, "sh", "-c", "systemd-cat -t lab echo to the journal; journalctl --sync; journalctl -q -t lab -o cat"); code != 0 || out != "to the journal" {
			t.Errorf("code %d: %s", code, out)
		}
	})
	t.Run("rsyslog", func(t *testing.T) {
		exec(t, c, "logger", "-t", "lab", "to the syslog")
		harness.Eventually(t, "the line is in the syslog", func() bool {
			_, out := exec(t, c, "grep", "-c", "lab: to the syslog", "/var/log/syslog")
			return out == "1"
		})
	})
	t.Run("cron", func(t *testing.T) {
		harness.Eventually(t, "the job has run", func() bool { code, _ := exec(t, c, "test", "-e", "/tmp/cron-ran"); return code == 0 })
		if _, out := exec(t, c, "cat", "/tmp/cron-ran"); !strings.Contains(out, `GREETING=it's "$HOME" = %n`) {
			t.Errorf("the job's environment is %s", out)
		}
	})
	t.Run("sshd", func(t *testing.T) {
		script := `ssh-keygen -q -N '' -t ed25519 -f /root/.ssh/id_ed25519 && cp /root/.ssh/id_ed25519.pub /root/.ssh/authorized_keys &&
			ssh -o StrictHostKeyChecking=no -o BatchMode=yes root@127.0.0.1 'bash -lc "echo \$GREETING"' 2>/tmp/ssh.err || cat /tmp/ssh.err`
		if code, out := exec(t, c, "sh", "-c", script); code != 0 || out != `it's "$HOME" = %n` {
			t.Errorf("code %d: %s", code, out)
		}
	})
	t.Run("login shell", func(t *testing.T) {
		if code, out := exec(t, c, "env", "-i", "bash", "-lc", "echo \"$GREETING\""); code != 0 || out != `it's "$HOME" = %n` {
			t.Errorf("code %d: %s", code, out)
		}
	})
	t.Run("exec has the application's environment", func(t *testing.T) {
		if _, out := exec(t, c, "sh", "-c", "echo \"$GREETING\"; pwd; id -u"); out != "it's \"$HOME\" = %n\n/\n0" {
			t.Errorf("%s", out)
		}
	})
	t.Run("a package with a service is installed", func(t *testing.T) { installs(t, c) })
	t.Run("runtime changes", func(t *testing.T) {
		script := "exec 2>/tmp/errors; systemctl --runtime mask cron && systemctl stop cron && ! systemctl start cron && systemctl --runtime unmask cron && systemctl start cron && systemctl is-active cron"
		if code, out := exec(t, c, "sh", "-c", script); code != 0 || out != "active" {
			t.Errorf("code %d: %s", code, out)
		}
	})
	healthy(t, c)
}

func installs(t *testing.T, c *harness.Container) {
	build := `set -e
mkdir -p /tmp/p/DEBIAN /tmp/p/lib/systemd/system
printf 'Package: lab-tiny\nVersion: 1\nArchitecture: all\nMaintainer: lab <lab@lab.invalid>\nDescription: a service\n' >/tmp/p/DEBIAN/control
printf '#!/bin/sh\nset -e\nsystemctl daemon-reload\nsystemctl enable --now lab-tiny.service\n' >/tmp/p/DEBIAN/postinst
chmod 755 /tmp/p/DEBIAN /tmp/p/DEBIAN/postinst
printf '[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n' >/tmp/p/lib/systemd/system/lab-tiny.service
dpkg-deb -b /tmp/p /tmp/tiny.deb >/dev/null
dpkg -i /tmp/tiny.deb >/tmp/dpkg.log 2>&1 || { cat /tmp/dpkg.log; exit 1; }
systemctl is-active lab-tiny; systemctl is-enabled lab-tiny`
	if code, out := exec(t, c, "sh", "-c", build); code != 0 || out != "active\nenabled" {
		t.Errorf("code %d: %s", code, out)
	}
}

func systemdKnowsThatItIsAContainer(t *testing.T, c *harness.Container) {
	if _, out := exec(t, c, "cat", "/etc/machine-id"); !regexp.MustCompile(`^[0-9a-f]{32}$`).MatchString(out) {
		t.Errorf("the machine-id is %q", out)
	}
	_, env := exec(t, c, "sh", "-c", "tr '\\0' '\\n' </proc/1/environ")
	for _, want := range []string{`(?m)^container=cri-pouch$`, `(?m)^container_uuid=[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`} {
		if !regexp.MustCompile(want).MatchString(env) {
			t.Errorf("pid 1 has no %s, but %s", want, env)
		}
	}
	// A package's postinst runs what it has unpacked in /tmp and /run.
	for _, dir := range []string{"/run", "/run/lock", "/tmp"} {
		if _, kind := exec(t, c, "findmnt", "-no", "FSTYPE", dir); kind != "tmpfs" {
			t.Errorf("%s is %s", dir, kind)
		}
		if code, out := exec(t, c, "sh", "-c", `printf '#!/bin/sh\necho it runs\n' >$0/script && chmod +x $0/script && $0/script && cp /bin/true $0/program && $0/program`, dir); code != 0 || out != "it runs" {
			t.Errorf("what lies in %s cannot be run: code %d, %s", dir, code, out)
		}
	}
	// What looks after a machine's devices and consoles is masked, and not there.
	for _, unit := range []string{"systemd-udevd.service", "systemd-udevd-kernel.socket", "getty@tty1.service", "getty.target", "console-getty.service", "systemd-networkd.service", "sys-kernel-debug.mount"} {
		if _, out := exec(t, c, "systemctl", "show", "-P", "LoadState", unit); out != "masked" {
			t.Errorf("%s is %s", unit, out)
		}
	}
	if code, out := exec(t, c, "pgrep", "-l", "udevd|getty|networkd"); code != 1 {
		t.Errorf("code %d, these run: %s", code, out)
	}
	// Not a privileged container: what a plain one cannot do, root cannot do here.
	for _, script := range []string{"mount -t tmpfs none /mnt", "mknod /tmp/disk b 8 0 && cat /tmp/disk", "test -w /proc/sys/kernel/panic", "test -w /proc/sysrq-trigger"} {
		if code, out := exec(t, c, "sh", "-c", script); code == 0 {
			t.Errorf("%s: is allowed: %s", script, out)
		}
	}
}

// Two pods have two machine-ids; a container that follows another in its pod keeps it.
func TestTheMachineIDIsThePods(t *testing.T) {
	n := harness.Start(t)
	ref := push(t, n, "systemd", "1", nil)
	id := func(p *harness.Pod, attempt uint32) string {
		c := p.Run(t, "app", probe(ref, "wait"), func(c *runtime.ContainerConfig) {
			c.Metadata.Attempt, c.LogPath = attempt, fmt.Sprintf("app_%d.log", attempt)
		})
		c.AwaitLine(t, boot, "waiting")
		defer c.Stop(t, 90)
		return c.Exec(t, "cat", "/etc/machine-id")
	}
	const uid = "0F5A3C7E-7D7E-4A5E-9B1A-2F3C4D5E6F70"
	first, second := n.RunPod(t, pod("systemd"), func(c *runtime.PodSandboxConfig) { c.Metadata.Uid = uid }), n.RunPod(t, pod("systemd"))
	a, b := id(first, 0), id(second, 0)
	if want := strings.ToLower(strings.ReplaceAll(uid, "-", "")) + "\n"; a != want {
		t.Errorf("the machine-id is %q, of a pod with the UID %s", a, uid)
	}
	if again := id(first, 1); a == b || a != again {
		t.Errorf("first pod %s, then %s; second pod %s", a, again, b)
	}
}

// witness is a service that leaves a file in the mounted folder when it is stopped, after the application was asked.
const witness = `[Unit]
Description=Sees the shutdown
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/touch /witness/started
ExecStop=/bin/sh -c 'sleep 0.5; cp /witness/asked /witness/stopped-after-asked; touch /witness/stopped'
`

// service are the files of an enabled unit.
func service(name, text string) []lab.File {
	return []lab.File{
		{Name: "etc/systemd/system/" + name, Content: []byte(text)},
		{Name: "etc/systemd/system/multi-user.target.wants/" + name, Link: "../" + name},
	}
}

func shutdownRunsEachExecStop(t *testing.T, n *harness.Node, ref string) {
	for how, end := range map[string]func(c *harness.Container){
		"stop":     func(c *harness.Container) { c.Stop(t, 90) },
		"its end":  func(c *harness.Container) { c.Exec(t, "sh", "-c", "kill -USR1 $(pidof probe)") },
		"poweroff": func(c *harness.Container) { exec(t, c, "systemctl", "poweroff") },
	} {
		t.Run(how, func(t *testing.T) {
			dir := t.TempDir()
			c := n.RunPod(t, pod("systemd", "shutdown-timeout", "5m")).Run(t, "app", probe(ref, "wait", "mark=/witness/asked", "exit=3"), func(c *runtime.ContainerConfig) {
				c.Mounts = []*runtime.Mount{{HostPath: dir, ContainerPath: "/witness"}}
			})
			c.AwaitLine(t, boot, "waiting")
			healthy(t, c)
			begin := time.Now()
			end(c)
			if _, code := c.Ended(t); code != 3 {
				t.Errorf("code %d", code)
			}
			if took := time.Since(begin); took > harness.Patience(harness.LongEnough) {
				t.Errorf("the end took %s", took)
			}
			for _, file := range []string{"asked", "started", "stopped", "stopped-after-asked"} {
				if _, err := os.Stat(filepath.Join(dir, file)); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// An application that does not end leaves its services the last part of the grace period.
func TestTheServicesEndThoughTheApplicationIsDeaf(t *testing.T) {
	n := harness.Start(t)
	ref := push(t, n, "systemd", "deaf", nil,
		service("polite.service", "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\nExecStop=/bin/sh -c 'sleep 0.5; touch /witness/stopped'\n")...)
	dir := t.TempDir()
	c := n.RunPod(t, pod("systemd")).Run(t, "app", probe(ref, "deaf", "say=up", "sleep=24h"), func(c *runtime.ContainerConfig) {
		c.Mounts = []*runtime.Mount{{HostPath: dir, ContainerPath: "/witness"}}
	})
	c.AwaitLine(t, boot, "up")
	healthy(t, c)
	begin := time.Now()
	c.Stop(t, 24) // 8 of them for the services
	if _, code := c.Ended(t); code != 137 {
		t.Errorf("code %d", code)
	}
	if took := time.Since(begin); took > 24*time.Second+harness.Patience(harness.LongEnough) {
		t.Errorf("a stop with 24 s of grace took %s", took)
	}
	mustExist(t, dir, "stopped")
}

// A unit whose stop never ends is given up when the shutdown has lasted too long.
func TestTheShutdownIsBounded(t *testing.T) {
	n := harness.Start(t)
	ref := push(t, n, "systemd", "stuck", nil,
		service("stuck.service", "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\nExecStop=/bin/sleep infinity\nTimeoutStopSec=infinity\n")...)
	c := n.RunPod(t, pod("systemd", "shutdown-timeout", "2s")).Run(t, "app", probe(ref, "say=up", "sleep=1s", "exit=8"))
	up := c.AwaitLine(t, boot, "up")
	if _, code := c.Ended(t); code != 8 {
		t.Errorf("code %d", code)
	}
	if took := time.Since(up.Time); took < 2900*time.Millisecond || took > harness.Patience(harness.LongEnough) {
		t.Errorf("1 s and a shutdown of at most 2 s took %s", took)
	}
}

func poweroffAndRebootInsideEndTheContainer(t *testing.T, n *harness.Node, m machine, ref string) {
	commands := []string{"poweroff", "reboot", "halt"}
	if m.image == "sysvinit" {
		commands = append(commands, "shutdown -h now")
	}
	for _, command := range commands {
		t.Run(command, func(t *testing.T) {
			// What the application leaves behind must not keep the init waiting.
			c := n.RunPod(t, pod(m.mode, "shutdown-timeout", "5m")).Run(t, "app", probe(ref, "leave=2", "wait", "exit=5"))
			c.AwaitLine(t, boot, "waiting")
			begin := time.Now()
			exec(t, c, strings.Fields(command)...)
			if text, code := c.Ended(t); code != 5 || !strings.Contains(text, "asked 15") {
				t.Errorf("code %d, log %q", code, text)
			}
			if took := time.Since(begin); took > harness.Patience(harness.LongEnough) {
				t.Errorf("the end took %s", took)
			}
		})
	}
}
