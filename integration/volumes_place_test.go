package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
	"github.com/cri-pouch/cri-pouch/integration/lab"
)

// hostFolder makes a folder on the host, as a kubelet's for a volume of the pod.
func hostFolder(t *testing.T, n *harness.Node, name string, files ...string) string {
	t.Helper()
	dir := filepath.Join(n.Dir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if err := os.WriteFile(filepath.Join(dir, f), []byte("host\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestAMountOfThePodWinsOverAVolume(t *testing.T) {
	n := harness.Start(t)
	ref := pushVolumes(t, n, "mounts", []string{"/data", "/deep/er", "/other", "/var/run/app"}, lab.File{Name: "data/image", Content: []byte("image\n")},
		lab.File{Name: "other/image"}, lab.File{Name: "run/app/image"}, lab.File{Name: "var/run", Link: "../run"})
	exact, above, below := hostFolder(t, n, "exact", "host"), hostFolder(t, n, "above", "host"), hostFolder(t, n, "volume/sub", "host")
	p := n.RunPod(t, annotated(persist, "/other, /deep/er/est"))
	c := p.Run(t, "app", image(ref, 0), func(c *runtime.ContainerConfig) {
		c.Mounts = []*runtime.Mount{
			{HostPath: exact, ContainerPath: "/data"}, {HostPath: above, ContainerPath: "/deep/"}, {HostPath: below, ContainerPath: "/other/sub/path"},
			{HostPath: exact, ContainerPath: "/run/app", Readonly: true},
		}
	})
	if got := c.Exec(t, "sh", "-c", "ls /data /deep /other /other/sub/path /var/run/app"); got != "/data:\nhost\n\n/deep:\nhost\n\n/other:\nimage\nsub\n\n/other/sub/path:\nhost\n\n/var/run/app:\nhost\n" {
		t.Errorf("the container sees %q", got)
	}
	if dirs := volumeDirs(t, n); len(dirs) != 1 || filepath.Base(dirs[0]) != "other" {
		t.Errorf("volumes are %v: only /other is covered by no mount", dirs)
	}
	if entries, err := os.ReadDir(above); err != nil || len(entries) != 1 {
		t.Errorf("the pod's own volume has %v, %v: something was made in it", entries, err)
	}
}

// A file of a ConfigMap that is mounted by subPath into a persisted folder is the pod's, the files around it the container's.
func TestASubPathMountInAPersistedFolder(t *testing.T) {
	n := harness.Start(t)
	ref := pushVolumes(t, n, "subpath", nil, lab.File{Name: "etc/app/conf", Content: []byte("image\n")}, lab.File{Name: "etc/app/state", Content: []byte("image\n")})
	host := hostFolder(t, n, "configmap", "conf", "extra")
	p := n.RunPod(t, annotated(persist, "/etc/app"))
	for attempt := range uint32(2) {
		c := p.Run(t, "app", image(ref, attempt), func(c *runtime.ContainerConfig) {
			c.Linux.SecurityContext.ReadonlyRootfs = true
			c.Mounts = []*runtime.Mount{
				{HostPath: filepath.Join(host, "conf"), ContainerPath: "/etc/app/conf", Readonly: true},
				{HostPath: filepath.Join(host, "extra"), ContainerPath: "/etc/app/extra/conf", Readonly: true},
			}
		})
		want := "host\nhost\nimage\nread-only\n"
		if attempt > 0 {
			want = "host\nhost\nwritten\nread-only\n"
		}
		if got := c.Exec(t, "sh", "-c", "cd /etc/app; cat conf extra/conf state; echo written >state; (echo x >conf) 2>/dev/null || echo read-only"); got != want {
			t.Errorf("attempt %d sees %q, want %q", attempt, got, want)
		}
		c.Stop(t, 0)
	}
}

func TestNestedVolumes(t *testing.T) {
	n := harness.Start(t)
	ref := pushVolumes(t, n, "nested", []string{"/a/b", "/a", "/a/b/c/d"}, lab.File{Name: "a/top"}, lab.File{Name: "a/b/middle"}, lab.File{Name: "a/b/c/d/bottom"})
	p := n.RunPod(t)
	for attempt := range uint32(2) {
		c := p.Run(t, "app", image(ref, attempt))
		got := c.Exec(t, "sh", "-c", "cd /a; ls top b/middle b/c/d/bottom; ls w b/w b/c/w b/c/d/w 2>/dev/null; touch w b/w b/c/w b/c/d/w; grep -c ' /a' /proc/self/mountinfo")
		want := "b/c/d/bottom\nb/middle\ntop\n"
		if attempt > 0 {
			want += "b/c/d/w\nb/c/w\nb/w\nw\n"
		}
		if got != want+"3\n" {
			t.Errorf("attempt %d sees %q, want %q", attempt, got, want)
		}
		c.Stop(t, 0)
	}
}

// Where the image lacks the path, the mount point is made although the container cannot write its root.
func TestVolumesWorkUnderAReadOnlyRoot(t *testing.T) {
	n := harness.Start(t)
	ref := pushVolumes(t, n, "readonly", []string{"/data", "/not/there"}, lab.File{Name: "data/seed", Content: []byte("seed\n")})
	p := n.RunPod(t, annotated(persist, "/opt/state"))
	for attempt := range uint32(2) {
		c := p.Run(t, "app", image(ref, attempt), func(c *runtime.ContainerConfig) { c.Linux.SecurityContext.ReadonlyRootfs = true })
		got := c.Exec(t, "sh", "-c", "cat /data/seed; for d in /data /not/there /opt/state; do echo x >>$d/w && wc -l <$d/w; done; touch /here /not/here 2>/dev/null || echo read-only")
		if want := fmt.Sprintf("seed\n%[1]d\n%[1]d\n%[1]d\nread-only\n", attempt+1); got != want {
			t.Errorf("attempt %d: %q, want %q", attempt, got, want)
		}
		c.Stop(t, 0)
	}
}

// An image may not reach the host's files by symlinks, neither as a VOLUME itself nor in the way of one nor inside it.
func TestHostileImagesOfVolumesStayInside(t *testing.T) {
	n := harness.Start(t)
	secret := hostFolder(t, n, "secret", "key")
	up := strings.Repeat("../", 40)
	ref := pushVolumes(t, n, "hostile", []string{"/evil", "/way/in", "/etc/app", "/loose"},
		lab.File{Name: "evil", Link: up + secret}, lab.File{Name: "way", Link: up + filepath.Dir(secret)}, lab.File{Name: "loose/link", Link: secret},
		lab.File{Name: "loose/relative", Link: up + secret})
	p := n.RunPod(t, annotated(persist, "/evil/key,/way/secret"))
	c := p.Run(t, "app", image(ref, 0))
	c.Exec(t, "sh", "-c", "touch /evil/w /way/in/w /way/secret/w; ! grep -r host /loose/link/ /loose/relative/ /evil/ /way/")
	if entries, err := os.ReadDir(secret); err != nil || len(entries) != 1 {
		t.Errorf("the host's folder has %v, %v", entries, err)
	}
	for _, d := range volumeDirs(t, n) {
		if b, err := os.ReadFile(filepath.Join(d, "fs/key")); err == nil {
			t.Errorf("%s has the host's file: %q", d, b)
		}
	}
	if target, err := os.Readlink(filepath.Join(n.RootDir(), "volumes", p.Config.Metadata.Uid, "app/loose/fs/link")); err != nil || target != secret {
		t.Errorf("a link inside leads to %q, %v", target, err)
	}
	// What the container makes of its volume is no way out either.
	c.Exec(t, "sh", "-c", "rm -rf /loose/*; ln -s "+up+secret+" /loose/sub; mkdir /etc/app/x; ln -s / /etc/app/root")
	c.Stop(t, 0)
	p.Config.Annotations[persist] = "/loose/sub"
	next := p.Run(t, "app", image(ref, 1))
	next.Exec(t, "sh", "-c", "touch /loose/w /loose/sub/w")
	if entries, err := os.ReadDir(secret); err != nil || len(entries) != 1 {
		t.Errorf("afterwards the host's folder has %v, %v", entries, err)
	}
}

// Images made for systemd declare what the kernel fills as VOLUMEs; they run.
func TestVolumesOfImagesInTheKernelsPlaces(t *testing.T) {
	n := harness.Start(t)
	ref := pushVolumes(t, n, "systemd", []string{"/sys/fs/cgroup", "/run", "/run/lock", "/tmp", "/dev/shm"})
	c := n.RunPod(t).Run(t, "app", image(ref, 0))
	c.Exec(t, "sh", "-c", "touch /run/w /run/lock/w /tmp/w /dev/shm/w; grep -q ' /sys/fs/cgroup ' /proc/self/mountinfo")
	if dirs := volumeDirs(t, n); len(dirs) != 3 {
		t.Errorf("volumes are %v", dirs)
	}
	p := n.RunPod(t)
	for _, v := range []string{"/", "/proc", "/sys", "/dev", "/a/../b"} {
		ref := pushVolumes(t, n, "bad", []string{v})
		n.Pull(t, ref)
		_, err := p.TryCreate(harness.Context(t), p.ContainerConfig("app", image(ref, 0)))
		wantCode(t, err, codes.InvalidArgument, v)
		wantCode(t, err, codes.InvalidArgument, "VOLUME")
	}
	// The pod can do without them.
	p.Config.Annotations = map[string]string{volumes: "fresh"}
	p.Run(t, "app", image(ref, 0)).Exec(t, "true")
}

func TestBadAnnotationsOfVolumesAreRefused(t *testing.T) {
	n := harness.Start(t)
	ref := pushVolumes(t, n, "plain", nil, lab.File{Name: "etc/app.conf"}, lab.File{Name: "slash", Link: "/"}, lab.File{Name: "kernel", Link: "proc/self"})
	n.Pull(t, ref)
	many := make([]string, 250)
	for i := range many {
		many[i] = fmt.Sprintf("/data/%d", i)
	}
	p := n.RunPod(t)
	for _, test := range []struct {
		key, value string
		mention    []string
	}{
		{persist, "/", []string{"path 1", `"/"`}},
		{persist, "/data,/proc", []string{"path 2", `"/proc"`}},
		{persist, "/sys/fs/cgroup", []string{"path 1", "/sys"}},
		{persist, "/dev", []string{"path 1", "/dev"}},
		{persist, "/data/../etc", []string{"path 1", "'..'"}},
		{persist, "data", []string{"path 1", "not absolute"}},
		{persist, "/a,,/b", []string{"path 2", "empty"}},
		{persist, "/a\x00", []string{"path 1", "control character"}},
		{persist, strings.Join(many, ","), []string{"250 paths", "64"}},
		{persist, "/etc/app.conf", []string{"/etc/app.conf", "no folder"}},
		{persist, "/slash", []string{"/slash leads to / in the image"}},
		{persist, "/kernel/x", []string{"leads to /proc/self/x"}},
		{volumes, "new", []string{`"new"`, "keep", "fresh"}},
	} {
		p.Config.Annotations = map[string]string{test.key: test.value}
		_, err := p.TryCreate(harness.Context(t), p.ContainerConfig("app", image(ref, 0)))
		for _, m := range append(test.mention, "annotation "+test.key) {
			wantCode(t, err, codes.InvalidArgument, m)
		}
	}
	p.Config.Annotations = map[string]string{persist: "/data", volumes: "fresh"}
	_, err := p.TryCreate(harness.Context(t), p.ContainerConfig("app", image(ref, 0)))
	wantCode(t, err, codes.InvalidArgument, persist)
	wantCode(t, err, codes.InvalidArgument, volumes)
	if got := listContainers(t, n, nil); len(got) != 0 {
		t.Errorf("%d containers were made", len(got))
	}
	wantNoVolumes(t, n)
	// The longest and most that are allowed.
	longest := strings.Repeat("/"+strings.Repeat("d", 127), 8)
	p.Config.Annotations = map[string]string{persist: strings.Join(append(many[:63], longest), ",")}
	p.Run(t, "app", image(ref, 0)).Exec(t, "touch", longest+"/w", "/data/62/w")
}
