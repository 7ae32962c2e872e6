package rich

import (
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
	"github.com/cri-pouch/cri-pouch/integration/lab"
)

// running starts a waiting probe in sbin-init mode.
func running(t *testing.T, n *harness.Node, ref string) *harness.Container {
	t.Helper()
	c := n.RunPod(t, pod("sbin-init", "shutdown-timeout", "5m")).Run(t, "app", probe(ref, "wait", "exit=0"))
	c.AwaitLine(t, boot, "waiting")
	return c
}

func TestSysvinitRunsTheImagesScripts(t *testing.T) {
	n := harness.Start(t)
	ref := push(t, n, "sysvinit", "scripts", nil,
		lab.File{Name: "etc/init.d/witness", Mode: 0o755, Content: []byte("#!/bin/sh\n### BEGIN INIT INFO\n# Provides: witness\n### END INIT INFO\necho \"$1\" >>/var/log/witness\n")},
		// What has been sorted beforehand leaves out what came later.
		lab.File{Name: "etc/init.d/.wh..depend.boot"}, lab.File{Name: "etc/init.d/.wh..depend.start"}, lab.File{Name: "etc/init.d/.wh..depend.stop"},
		lab.File{Name: "etc/rc2.d/S50witness", Link: "../init.d/witness"},
		lab.File{Name: "etc/rc0.d/K50witness", Link: "../init.d/witness"},
		lab.File{Name: "etc/cron.d/lab", Content: []byte("@reboot root env >/var/log/cron.new; mv /var/log/cron.new /var/log/cron-ran\n")})
	c := n.RunPod(t, pod("sbin-init", "shutdown-timeout", "5m")).Run(t, "app", probe(ref, "wait", "exit=0"), func(c *runtime.ContainerConfig) {
		c.Envs = []*runtime.KeyValue{variable("GREETING", "it's \"$HOME\" = %n")}
	})
	c.AwaitLine(t, boot, "waiting")
	if got := c.Exec(t, "sh", "-c", "tr '\\0' ' ' </proc/1/cmdline; readlink /proc/1/exe"); !strings.Contains(got, "init") || !strings.HasSuffix(got, "/sbin/init\n") {
		t.Errorf("pid 1 is %q", got)
	}
	if got := strings.Fields(c.Exec(t, "runlevel")); len(got) != 2 || got[1] != "2" {
		t.Errorf("the runlevel is %v", got)
	}
	for _, process := range []string{"cron", "rsyslogd"} {
		harness.Eventually(t, process+" runs", func() bool { code, _ := exec(t, c, "pidof", process); return code == 0 })
	}
	exec(t, c, "logger", "-t", "lab", "to the syslog")
	harness.Eventually(t, "the line is in the syslog", func() bool {
		code, _ := exec(t, c, "grep", "-q", "lab: to the syslog", "/var/log/syslog")
		return code == 0
	})
	harness.Eventually(t, "the image's script has run", func() bool { _, out := exec(t, c, "cat", "/var/log/witness"); return out == "start" })
	// People and their jobs see the container's environment.
	harness.Eventually(t, "the job of cron has run", func() bool { code, _ := exec(t, c, "test", "-e", "/var/log/cron-ran"); return code == 0 })
	if _, out := exec(t, c, "cat", "/var/log/cron-ran"); !strings.Contains(out, `GREETING=it's "$HOME" = %n`) {
		t.Errorf("the job's environment is %s", out)
	}
	if _, out := exec(t, c, "env", "-i", "sh", "-lc", `echo "$GREETING"`); out != `it's "$HOME" = %n` {
		t.Errorf("a login shell has %s", out)
	}
	// The image's own file is not touched, and still says what it said.
	if got := c.Exec(t, "grep", "-c", "^si::sysinit:/etc/init.d/rcS$", "/etc/inittab"); got != "1\n" {
		t.Errorf("the line of rcS stands there %s times", got)
	}
	begin := time.Now()
	c.Stop(t, 90)
	if _, code := c.Ended(t); code != 0 {
		t.Errorf("code %d", code)
	}
	// sysvinit never ends by itself: it is ended once it is alone, not after its whole time.
	if took := time.Since(begin); took > harness.Patience(harness.LongEnough) {
		t.Errorf("the stop took %s", took)
	}
}

func TestBusyboxInitRunsTheImagesLines(t *testing.T) {
	n := harness.Start(t)
	dir := t.TempDir()
	ref := push(t, n, "busybox", "lines", nil,
		lab.File{Name: "etc/inittab", Content: []byte("::sysinit:/etc/init.d/rcS\n::respawn:/bin/crond -f -c /etc/crontabs\n::shutdown:/bin/touch /witness/shutdown\n")})
	c := n.RunPod(t, pod("sbin-init", "shutdown-timeout", "5m")).Run(t, "app", probe(ref, "wait", "exit=9"), func(c *runtime.ContainerConfig) {
		c.Mounts = []*runtime.Mount{{HostPath: dir, ContainerPath: "/witness"}}
	})
	c.AwaitLine(t, boot, "waiting")
	c.Exec(t, "test", "-e", "/rcS-ran")
	harness.Eventually(t, "crond runs", func() bool { code, _ := exec(t, c, "pidof", "crond"); return code == 0 })
	c.Exec(t, "sh", "-c", "kill -9 $(pidof crond)")
	harness.Eventually(t, "crond runs again", func() bool { code, _ := exec(t, c, "pidof", "crond"); return code == 0 })
	begin := time.Now()
	c.Stop(t, 90)
	if _, code := c.Ended(t); code != 9 {
		t.Errorf("code %d", code)
	}
	if took := time.Since(begin); took > harness.Patience(harness.LongEnough) {
		t.Errorf("the stop took %s", took)
	}
	mustExist(t, dir, "shutdown")
}

// An inittab that the image lacks is the init's default with the launcher's line.
func TestAnImageWithoutInittab(t *testing.T) {
	n := harness.Start(t)
	ref := push(t, n, "busybox", "no-inittab", nil, lab.File{Name: "etc/.wh.inittab"})
	if text, code := n.RunPod(t, pod("sbin-init")).RunToEnd(t, "app", probe(ref, "say=up", "exit=4")); text != "up\n" || code != 4 {
		t.Errorf("code %d, log %q", code, text)
	}
}

// What /sbin/init is decides; an init that is not known is refused by its name.
func TestOtherInits(t *testing.T) {
	n := harness.Start(t)
	for image, parts := range map[string][]string{"runit": {"runit"}, "openrc": {"openrc"}, "static": {"/sbin/init"}, "dumb-init": {"/sbin/init"}} {
		t.Run(image, func(t *testing.T) {
			ref := push(t, n, image, "1", nil)
			p := n.RunPod(t, pod("sbin-init"))
			refused(t, p, codes.InvalidArgument, p.ContainerConfig("app", probe(ref, "exit=0")), append(parts, prefix+"mode")...)
		})
	}
	t.Run("systemd", func(t *testing.T) {
		c := running(t, n, push(t, n, "systemd", "1", nil))
		healthy(t, c)
	})
}

func TestModesThatAnImageCannotHave(t *testing.T) {
	n := harness.Start(t)
	for _, m := range []machine{{"sysvinit", "systemd"}, {"static", "systemd"}, {"dumb-init", "systemd"}} {
		t.Run(m.name(), func(t *testing.T) {
			ref := push(t, n, m.image, "1", func(c *v1.ConfigFile) {})
			p := n.RunPod(t, pod(m.mode))
			refused(t, p, codes.InvalidArgument, p.ContainerConfig("app", probe(ref, "exit=0")), prefix+"mode", "/lib/systemd/systemd")
		})
	}
}
