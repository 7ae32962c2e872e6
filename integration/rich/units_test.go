package rich

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
	"github.com/cri-pouch/cri-pouch/integration/harness"
	"github.com/cri-pouch/cri-pouch/integration/lab"
)

func mustExist(t testing.TB, dir string, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
}

// onSystemd gives a node with an image of Debian 12's systemd and more files.
func onSystemd(t *testing.T, tag string, units map[string]string) (*harness.Node, string) {
	t.Helper()
	n := harness.Start(t)
	files := service("lab-none.service", "[Service]\nExecStart=/bin/sleep infinity\n")
	for name, text := range units {
		files = append(files, service(name, text)...)
	}
	ref := push(t, n, "systemd", tag, nil, files...)
	return n, ref
}

func TestTheFailureOfAWatchedUnitEndsTheContainer(t *testing.T) {
	n, ref := onSystemd(t, "watch", map[string]string{
		"watched.service": "[Service]\nExecStart=/usr/local/bin/probe sleep=1s exit=7\n", "other.service": "[Service]\nExecStart=/bin/false\n",
		"fine.service": "[Service]\nType=oneshot\nExecStart=/bin/true\n",
	})
	c := n.RunPod(t, pod("systemd", "watch-units", "fine.service,watched.service")).Run(t, "app", probe(ref, "wait", "exit=0"))
	c.AwaitLine(t, boot, "waiting")
	c.Ended(t)
	if s := c.Status(t); s.ExitCode == 0 || !strings.Contains(s.Message, "watched.service") {
		t.Errorf("code %d, reason %s, message %q", s.ExitCode, s.Reason, s.Message)
	}
	if told := failuresTold(t, n, c); len(told) != 1 || told["watched.service"] != 1 {
		t.Errorf("the journal tells of %v", told)
	}
}

// failuresTold counts the failures of a container's units that the journal tells of.
func failuresTold(t *testing.T, n *harness.Node, c *harness.Container) map[string]int {
	t.Helper()
	told := map[string]int{}
	stream, err := n.Daemon.Pouch.Events(harness.Context(t), &pouchv1.EventsRequest{})
	for err == nil {
		var r *pouchv1.EventsResponse
		if r, err = stream.Recv(); err == nil && r.Event.GetContainerId() == c.ID && r.Event.Kind == "unit-failed" {
			told[r.Event.Message]++
		}
	}
	if !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return told
}

func TestTheFailureOfAnotherUnitDoesNot(t *testing.T) {
	n, ref := onSystemd(t, "other", map[string]string{"other.service": "[Service]\nExecStart=/bin/false\n"})
	c := n.RunPod(t, pod("systemd")).Run(t, "app", probe(ref, "wait", "exit=0"))
	c.AwaitLine(t, boot, "waiting")
	harness.Eventually(t, "the service has failed", func() bool { _, out := exec(t, c, "systemctl", "is-failed", "other"); return out == "failed" })
	if s := c.Status(t); s.State != runtime.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the container is %s", s.State)
	}
}

func TestTheApplicationStartsAfterWhatIsAsked(t *testing.T) {
	n, ref := onSystemd(t, "after", map[string]string{"slow.service": "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'sleep 1; touch /run/slow-is-done'\n"})
	for after, want := range map[string]int32{"": 1, "slow.service": 0} {
		options := []string{}
		if after != "" {
			options = []string{"after", after}
		}
		if text, code := n.RunPod(t, pod("systemd", options...)).RunToEnd(t, "app", image(ref, "test", "-e", "/run/slow-is-done")); code != want {
			t.Errorf("after %q: code %d, %s", after, code, text)
		}
	}
}

// unitsOf mounts files at /etc/pouch/units as the kubelet does those of a ConfigMap: links to a folder whose name changes with
// each update.
func unitsOf(t *testing.T, files map[string]string) func(*runtime.ContainerConfig) {
	t.Helper()
	dir := t.TempDir()
	err := os.Mkdir(filepath.Join(dir, "..2026_01_01"), 0o755)
	if err == nil {
		err = os.Symlink("..2026_01_01", filepath.Join(dir, "..data"))
	}
	for name, text := range files {
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "..data", name), []byte(text), 0o644)
		}
		if err == nil {
			err = os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name))
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return func(c *runtime.ContainerConfig) {
		c.Mounts = append(c.Mounts, &runtime.Mount{HostPath: dir, ContainerPath: "/etc/pouch/units", Readonly: true})
	}
}

func TestUnitsThatThePodMounts(t *testing.T) {
	n, ref := onSystemd(t, "units", nil)
	unit := "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"
	c := n.RunPod(t, pod("systemd", "units-from", "/etc/pouch/units")).Run(t, "app", probe(ref, "wait", "exit=0"), unitsOf(t, map[string]string{"one.service": unit, "two.service": unit}))
	c.AwaitLine(t, boot, "waiting")
	healthy(t, c)
	if _, out := exec(t, c, "systemctl", "is-active", "one", "two"); out != "active\nactive" {
		t.Errorf("they are %s", out)
	}
	p := n.RunPod(t, pod("systemd", "units-from", "/etc/pouch/units"))
	refused(t, p, codes.InvalidArgument, p.ContainerConfig("no-mount", probe(ref, "exit=0")), prefix+"units-from", "/etc/pouch/units")
	dir := t.TempDir()
	if err := os.Symlink("/etc/shadow", filepath.Join(dir, "secret.service")); err != nil {
		t.Fatal(err)
	}
	link := p.ContainerConfig("link", probe(ref, "exit=0"), func(c *runtime.ContainerConfig) {
		c.Mounts = append(c.Mounts, &runtime.Mount{HostPath: dir, ContainerPath: "/etc/pouch/units"})
	})
	refused(t, p, codes.InvalidArgument, link, "secret.service")
}

// What [Install] says is done as systemctl would do it, and systemd takes it so.
func TestInstallSectionsOfUnitsThatThePodMounts(t *testing.T) {
	n := harness.Start(t)
	const sleeps = "[Service]\nExecStart=/bin/sleep infinity\n"
	ref := push(t, n, "systemd", "install", nil, lab.File{Name: "etc/systemd/system/theirs.service", Content: []byte(sleeps + "[Install]\nWantedBy=multi-user.target\n")})
	c := n.RunPod(t, pod("systemd", "units-from", "/etc/pouch/units", "after", "other.service")).Run(t, "app", probe(ref, "wait", "exit=0"), unitsOf(t, map[string]string{
		"one.service":   sleeps + "[Install]\nAlias=other.service\nAlso=theirs.service\nWantedBy=no-such.target \\\n  multi-user.target\n",
		"each@.service": sleeps + "[Install]\nWantedBy=multi-user.target\nDefaultInstance=default\n",
	}))
	c.AwaitLine(t, boot, "waiting")
	healthy(t, c)
	for _, unit := range []string{"one.service", "other.service", "theirs.service", "each@default.service"} {
		if _, out := exec(t, c, "systemctl", "is-active", unit); out != "active" {
			t.Errorf("%s is %s", unit, out)
		}
	}
	if _, out := exec(t, c, "systemctl", "show", "-P", "Id", "other.service"); out != "one.service" {
		t.Errorf("other.service is %s", out)
	}
	c.Stop(t, 90)
}

// Debian's sshd.service is a link to ssh.service, which is what systemd tells the failure of.
func TestTheFailureOfAWatchedUnitThatHasAnAlias(t *testing.T) {
	n := harness.Start(t)
	ref := push(t, n, "systemd", "alias", nil, lab.File{Name: "etc/systemd/system/ssh.service.d/ends.conf",
		Content: []byte("[Service]\nType=simple\nRestart=no\nExecStart=\nExecStart=/usr/local/bin/probe sleep=1s exit=7\n")})
	c := n.RunPod(t, pod("systemd", "watch-units", "sshd.service")).Run(t, "app", probe(ref, "wait", "exit=0"))
	c.AwaitLine(t, boot, "waiting")
	c.Ended(t)
	if s := c.Status(t); s.ExitCode != 1 || !strings.Contains(s.Message, "ssh.service") {
		t.Errorf("code %d, reason %s, message %q", s.ExitCode, s.Reason, s.Message)
	}
	p := n.RunPod(t, pod("systemd", "watch-units", "getty@tty1.service"))
	refused(t, p, codes.InvalidArgument, p.ContainerConfig("app", probe(ref, "exit=0")), prefix+"watch-units", "getty@tty1.service", "masked in every container")
}
