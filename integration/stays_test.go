package integration

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// surroundings is what a container sees of its pod; a replaced container's successor must see the same.
const surroundings = `hostname; cat /etc/hostname /etc/hosts /etc/resolv.conf
for ns in net ipc uts; do readlink /proc/self/ns/$ns; done
cat /sys/class/net/eth0/address /sys/class/net/eth0/ifindex; ip -o address show | sed 's/ tentative//'; ip route
cat /dev/shm/note /data/note /fixed/note
(: > /fixed/note) && echo writable`

// criMounts gives the mounts that CRI asks for as a container sees them: where, from which device and folder, and how.
func criMounts(t *testing.T, c *harness.Container) (mounts []string) {
	t.Helper()
	for line := range strings.Lines(c.Exec(t, "cat", "/proc/self/mountinfo")) {
		f := strings.Fields(line)
		rest := f[slices.Index(f, "-"):]
		if where := f[4]; slices.Contains([]string{"/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/dev/shm", "/data", "/fixed", "/dev/termination-log"}, where) {
			mounts = append(mounts, fmt.Sprint(where, " ", f[2], " ", f[3], " ", f[5], " ", rest[1]))
		}
	}
	slices.Sort(mounts)
	return mounts
}

// conversation is an open connection into the pod.
type conversation struct {
	conn  net.Conn
	lines *bufio.Scanner
}

func converse(t *testing.T, address string) *conversation {
	t.Helper()
	var conn net.Conn
	harness.Eventually(t, "the pod listens at "+address, func() (ok bool) {
		var err error
		conn, err = net.DialTimeout("tcp", address, harness.LongEnough)
		return err == nil
	})
	t.Cleanup(func() { conn.Close() })
	return &conversation{conn, bufio.NewScanner(conn)}
}

func (c *conversation) say(t *testing.T, text string) {
	t.Helper()
	if err := c.conn.SetDeadline(time.Now().Add(harness.Patience(harness.LongEnough))); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintln(c.conn, text); err != nil {
		t.Errorf("the connection is broken: %v", err)
		return
	}
	if !c.lines.Scan() || c.lines.Text() != text {
		t.Errorf("%q comes back as %q, %v", text, c.lines.Text(), c.lines.Err())
	}
}

// One container of a pod is replaced; all around it stays exactly as it is, also when the daemon dies in the middle.
func TestWhatStaysWhenAContainerIsReplaced(t *testing.T) {
	nothing := func(*harness.Node) {}
	kill := func(n *harness.Node) { n.KillDaemon(t); n.StartDaemon(t) }
	for name, between := range map[string]struct{ stopped, created func(*harness.Node) }{
		"undisturbed":                       {nothing, nothing},
		"the daemon is killed after Stop":   {kill, nothing},
		"the daemon is killed after Create": {nothing, kill},
	} {
		t.Run(name, func(t *testing.T) { testWhatStays(t, between.stopped, between.created) })
	}
}

func testWhatStays(t *testing.T, stopped, created func(*harness.Node)) {
	n := harness.Start(t)
	image := n.Pull(t, harness.Busybox2)
	p := n.RunPod(t, func(c *runtime.PodSandboxConfig) {
		c.Hostname = "stays"
		c.DnsConfig = &runtime.DNSConfig{Servers: []string{"192.0.2.1"}, Searches: []string{"stays.test"}}
	})
	mounts := func(c *runtime.ContainerConfig) {
		for path, readonly := range map[string]bool{"/data": false, "/fixed": true} {
			dir := filepath.Join(n.Dir, p.ID[:8]+filepath.Base(path))
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "note"), []byte(path+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			c.Mounts = append(c.Mounts, &runtime.Mount{HostPath: dir, ContainerPath: path, Readonly: readonly})
		}
		file := filepath.Join(n.Dir, p.ID[:8]+"termination-log")
		if err := os.WriteFile(file, nil, 0o666); err != nil {
			t.Fatal(err)
		}
		c.Mounts = append(c.Mounts, &runtime.Mount{HostPath: file, ContainerPath: "/dev/termination-log"})
	}
	agent := p.Run(t, "agent", mounts, harness.Command("nc", "-ll", "-p", "9000", "-e", "cat"))
	idle := p.Run(t, "idle", mounts)
	old := p.Run(t, "web", mounts, version(0, harness.Busybox, "aaaa"))
	old.Exec(t, "sh", "-c", "echo shared > /dev/shm/note")
	talk := converse(t, net.JoinHostPort(p.IP(t), "9000"))
	talk.say(t, "before")

	look := func(c *harness.Container) string {
		return c.Exec(t, "sh", "-c", "exec 2>/dev/null; "+surroundings+"; true")
	}
	birth := func(c *harness.Container) string { return c.Exec(t, "cut", "-d ", "-f22", "/proc/1/stat") }
	pod, seen, mounted := p.Status(t), look(old), criMounts(t, old)
	if len(mounted) != 7 || !strings.Contains(seen, "stays.test") || !strings.Contains(seen, "shared\n/data\n/fixed\n") || strings.Contains(seen, "writable") {
		t.Fatalf("the container sees %q and has %q mounted", seen, mounted)
	}
	others := []*harness.Container{agent, idle}
	var before []*runtime.ContainerStatus
	var births []string
	for _, c := range others {
		before, births = append(before, c.Status(t)), append(births, birth(c))
	}

	old.Stop(t, 0)
	talk.say(t, "while it is stopped")
	stopped(n)
	web := p.Create(t, "web", mounts, version(1, harness.Busybox2, "bbbb"), func(c *runtime.ContainerConfig) { c.Image.Image = image })
	talk.say(t, "while it is created")
	created(n)
	web.Start(t)
	talk.say(t, "after")

	if got := p.Status(t); got.String() != pod.String() {
		t.Errorf("the sandbox was %v, is %v", pod, got)
	}
	if got := look(web); got != seen {
		t.Errorf("the new container sees\n%s\nthe old one saw\n%s", got, seen)
	}
	if got := criMounts(t, web); !slices.Equal(got, mounted) {
		t.Errorf("the new container has mounted\n%q\nthe old one had\n%q", got, mounted)
	}
	for i, c := range others {
		if got := c.Status(t); got.String() != before[i].String() {
			t.Errorf("another container was %v, is %v", before[i], got)
		}
		if got := birth(c); got != births[i] {
			t.Error("another container's process is another one")
		}
	}
	was, now := old.Status(t), web.Status(t)
	if now.Id == was.Id || now.ImageRef == was.ImageRef || now.ImageId == was.ImageId || web.Exec(t, "cat", "/version") != "two\n" {
		t.Errorf("the replaced container was %v, is %v", was, now)
	}
	if got := old.LogFile(); got == web.LogFile() {
		t.Errorf("both log to %s", got)
	} else if _, err := os.Stat(got); err != nil {
		t.Errorf("the old container's log is gone: %v", err)
	}
	talk.say(t, "at the end")
}
