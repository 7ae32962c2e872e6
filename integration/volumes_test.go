package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
	"github.com/cri-pouch/cri-pouch/integration/lab"
)

const (
	persist = "upgrade.cri-pouch.io/persist"
	volumes = "upgrade.cri-pouch.io/volumes"
)

// annotated adds annotations to a pod.
func annotated(pairs ...string) func(*runtime.PodSandboxConfig) {
	return func(c *runtime.PodSandboxConfig) {
		if c.Annotations == nil {
			c.Annotations = map[string]string{}
		}
		for i := 0; i < len(pairs); i += 2 {
			c.Annotations[pairs[i]] = pairs[i+1]
		}
	}
}

// pushVolumes makes an image with VOLUMEs and further files, and gives its reference.
func pushVolumes(t *testing.T, n *harness.Node, tag string, declared []string, files ...lab.File) string {
	t.Helper()
	base, err := lab.BusyboxFiles()
	if err != nil {
		t.Fatal(err)
	}
	bottom, err := lab.Layer(base...)
	if err != nil {
		t.Fatal(err)
	}
	top, err := lab.Layer(append([]lab.File{{Name: "version", Content: []byte(tag + "\n")}}, files...)...)
	if err != nil {
		t.Fatal(err)
	}
	img, err := lab.Image(func(c *v1.ConfigFile) {
		if len(declared) > 0 {
			c.Config.Volumes = map[string]struct{}{}
		}
		for _, d := range declared {
			c.Config.Volumes[d] = struct{}{}
		}
	}, bottom, top)
	if err == nil {
		err = n.Images.Push("volumes:"+tag, img)
	}
	if err != nil {
		t.Fatal(err)
	}
	return lab.Domain + "/volumes:" + tag
}

// image makes a container one of the image, and its attempt the given one.
func image(ref string, attempt uint32) func(*runtime.ContainerConfig) {
	return func(c *runtime.ContainerConfig) {
		c.Image = &runtime.ImageSpec{Image: ref, UserSpecifiedImage: ref}
		c.Metadata.Attempt = attempt
	}
}

// volumeDirs gives what is below the folder of volumes.
func volumeDirs(t *testing.T, n *harness.Node) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(n.RootDir(), "volumes", "*", "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func wantNoVolumes(t *testing.T, n *harness.Node) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(n.RootDir(), "volumes"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		t.Errorf("left in the folder of volumes: %s", e.Name())
	}
}

func TestVolumesOutliveTheirContainer(t *testing.T) {
	n := harness.Start(t)
	one := pushVolumes(t, n, "one", []string{"/data", "/srv/www"}, lab.File{Name: "data/seed", Content: []byte("one\n")}, lab.File{Name: "etc/app/conf", Content: []byte("first\n")})
	two := pushVolumes(t, n, "two", []string{"/data", "/new"}, lab.File{Name: "data/seed", Content: []byte("two\n")}, lab.File{Name: "new/seed", Content: []byte("two\n")},
		lab.File{Name: "etc/app/conf", Content: []byte("second\n")})
	p := n.RunPod(t, annotated(persist, "/etc/app, /home/app"))
	c := p.Run(t, "web", image(one, 0))
	if got := c.Exec(t, "sh", "-c", "cat /data/seed /etc/app/conf; ls -A /srv/www; echo written >/data/w; echo www >/srv/www/w; echo changed >/etc/app/conf; echo h >/home/app/h; echo lost >/tmp/lost"); got != "one\nfirst\n" {
		t.Errorf("the first container sees %q", got)
	}
	other := p.Run(t, "other", image(one, 0))
	if got := other.Exec(t, "sh", "-c", "cat /data/seed; ls /data"); got != "one\nseed\n" {
		t.Errorf("another container's volume has %q", got)
	}
	c.Stop(t, 0)
	next := p.Run(t, "web", image(two, 1))
	got := next.Exec(t, "sh", "-c", "cat /version /data/seed /data/w /srv/www/w /etc/app/conf /home/app/h /new/seed; ls /tmp")
	if want := "two\none\nwritten\nwww\nchanged\nh\ntwo\n"; got != want {
		t.Errorf("the successor sees %q, want %q", got, want)
	}
	c.Remove(t)
	next.Exec(t, "sh", "-c", "echo kept >/new/w; kill -9 -1; true")
	next.Stop(t, 0)
	n.KillDaemon(t)
	n.StartDaemon(t)
	third := p.Run(t, "web", image(one, 2))
	if got := third.Exec(t, "cat", "/data/w", "/srv/www/w", "/new/w"); got != "written\nwww\nkept\n" {
		t.Errorf("the third sees %q", got)
	}
	if got := volumeDirs(t, n); len(got) != 5+4 || slices.ContainsFunc(got, func(d string) bool { return strings.Contains(d, "%new") }) {
		t.Errorf("%d volumes: %v", len(got), got)
	}
	p.Remove(t)
	wantNoVolumes(t, n)
}

func getXattr(t *testing.T, path, name string) string {
	t.Helper()
	b := make([]byte, 256)
	size, err := unix.Lgetxattr(path, name, b)
	if err != nil {
		t.Errorf("%s of %s: %v", name, path, err)
		return ""
	}
	return string(b[:size])
}

func numericOwner(t *testing.T, path string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d:%d", st.Uid, st.Gid)
}
