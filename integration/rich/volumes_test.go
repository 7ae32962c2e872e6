package rich

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
	"github.com/cri-pouch/cri-pouch/integration/harness"
	"github.com/cri-pouch/cri-pouch/integration/lab"
)

// attempt makes a container the one that follows so many others of its name, with the hash that the kubelet gives a spec.
func attempt(number uint32, hash string) func(*runtime.ContainerConfig) {
	return func(c *runtime.ContainerConfig) {
		c.Metadata.Attempt, c.LogPath = number, strings.Replace(c.LogPath, "_0.log", "_"+string(rune('0'+number))+".log", 1)
		c.Annotations = map[string]string{"io.kubernetes.container.hash": hash}
	}
}

// An edit of the image replaces a rich container like any other: the sandbox, its address and the identity of the machine
// stay, what its pod persists and its images declare is handed on, and the history says so.
func aRichContainerIsReplacedInPlace(t *testing.T, n *harness.Node, m machine, ref string) {
	volume := func(c *v1.ConfigFile) { c.Config.Volumes = map[string]struct{}{"/var/lib/declared": {}} }
	first := push(t, n, m.image, "volume", volume)
	next := push(t, n, m.image, "2", volume, versionFile("two"), lab.File{Name: "var/lib/declared/of-two", Content: []byte("x")})
	p := n.RunPod(t, pod(m.mode), func(c *runtime.PodSandboxConfig) { c.Annotations["upgrade.cri-pouch.io/persist"] = "/var/lib/state" })
	actions := []string{"mark=/var/lib/state/marks", "mark=/var/lib/declared/marks", "mark=/var/lib/lost", "wait", "exit=0"}
	old := p.Run(t, "app", probe(first, actions...), attempt(0, "a"))
	beside := p.Run(t, "beside", probe(ref, "wait", "exit=0"), func(*runtime.ContainerConfig) {})
	old.AwaitLine(t, boot, "waiting")
	beside.AwaitLine(t, boot, "waiting")
	ip := p.IP(t)
	n.Pull(t, next)
	old.Stop(t, 90)
	c := p.Run(t, "app", probe(next, actions...), attempt(1, "b"))
	c.AwaitLine(t, boot, "waiting")
	if got := c.Exec(t, "sh", "-c", "cd /var/lib; wc -l <state/marks; wc -l <declared/marks; wc -l <lost; ls declared; cat /version"); got != "2\n2\n1\nmarks\ntwo\n" {
		t.Errorf("%q", got)
	}
	if p.IP(t) != ip {
		t.Errorf("the address was %s and is %s", ip, p.IP(t))
	}
	if s := beside.Status(t); s.State != runtime.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the container beside it is %s", s.State)
	}
	r, err := n.Daemon.Pouch.History(harness.Context(t), &pouchv1.HistoryRequest{PodSandboxId: p.ID})
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range r.Generations {
		if g.ContainerId != c.ID {
			continue
		}
		was, is := old.Status(t), c.Status(t)
		if g.Cause != pouchv1.Cause_CAUSE_UPGRADE || g.PredecessorId != old.ID || g.OutageMs == nil || *g.OutageMs != (is.StartedAt-was.FinishedAt)/1e6 {
			t.Errorf("the history says %v", g)
		}
		c.Stop(t, 90)
		return
	}
	t.Errorf("the history has no word of it: %v", r.Generations)
}

// What systemd is to find empty at each start is, though the image declares volumes there, as images for systemd do; those
// below them outlive the container.
func TestVolumesAtTheFoldersOfSystemd(t *testing.T) {
	n := harness.Start(t)
	declared := func(c *v1.ConfigFile) {
		c.Config.Volumes = map[string]struct{}{"/run": {}, "/run/lock": {}, "/tmp": {}, "/sys/fs/cgroup": {}, "/var/run/app": {}, "/var/lib/app": {}}
	}
	ref := push(t, n, "systemd", "volumes", declared, lab.File{Name: "run/of-the-image", Content: []byte("x")}, lab.File{Name: "run/app/of-the-image", Content: []byte("x")})
	look := func(p *harness.Pod, number uint32, edits ...func(*runtime.ContainerConfig)) string {
		t.Helper()
		c := p.Run(t, "app", append([]func(*runtime.ContainerConfig){probe(ref, "mark=/run/marks", "mark=/run/lock/marks", "mark=/tmp/marks", "mark=/run/app/marks", "mark=/var/lib/app/marks", "wait", "exit=0"), attempt(number, "a")}, edits...)...)
		c.AwaitLine(t, boot, "waiting")
		healthy(t, c)
		out := c.Exec(t, "sh", "-c", "for d in /run /run/lock /tmp /run/app /var/lib/app; do echo $d $(findmnt -no FSTYPE $d) $(wc -l <$d/marks) $(ls $d | grep of-the-image); done")
		c.Stop(t, 90)
		return strings.NewReplacer(" ext4 ", " kept ", " overlay ", " kept ", " xfs ", " kept ", " btrfs ", " kept ").Replace(out)
	}
	p := n.RunPod(t, pod("systemd"))
	for number, marks := range []string{"1", "2"} {
		want := "/run tmpfs 1\n/run/lock tmpfs 1\n/tmp tmpfs 1\n/run/app kept " + marks + " of-the-image\n/var/lib/app kept " + marks + "\n"
		if got := look(p, uint32(number)); got != want {
			t.Errorf("attempt %d sees\n%swant\n%s", number, got, want)
		}
	}
	persisting := func(paths string) func(*runtime.PodSandboxConfig) {
		return func(c *runtime.PodSandboxConfig) {
			c.Annotations = map[string]string{prefix + "mode": "sbin-init", "upgrade.cri-pouch.io/persist": paths}
		}
	}
	for _, path := range []string{"/run", "/var/run", "/run/lock", "/tmp"} {
		p := n.RunPod(t, persisting("/var/lib/app,"+path))
		refused(t, p, codes.InvalidArgument, p.ContainerConfig("app", probe(ref, "exit=0")), "upgrade.cri-pouch.io/persist", path)
	}
	// What the pod mounts there is there.
	run, tmp := t.TempDir(), t.TempDir()
	if err := os.Mkdir(filepath.Join(run, "app"), 0o755); err != nil {
		t.Fatal(err)
	}
	p = n.RunPod(t, pod("systemd"))
	got := look(p, 0, func(c *runtime.ContainerConfig) {
		c.Mounts = []*runtime.Mount{{HostPath: run, ContainerPath: "/run"}, {HostPath: tmp, ContainerPath: "/tmp"}}
	})
	if strings.Contains(got, "/run tmpfs") || strings.Contains(got, "/tmp tmpfs") || !strings.Contains(got, "/run/lock tmpfs 1\n") {
		t.Errorf("the container sees\n%s", got)
	}
	mustExist(t, run, "marks", ".pouch", "systemd")
	mustExist(t, tmp, "marks")
}
