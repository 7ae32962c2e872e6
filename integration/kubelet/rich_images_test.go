package kubelet

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/cri-pouch/cri-pouch/integration/lab"
)

// Images with inits; /version tells the two of a name apart. All have the probe of integration/rich, a shell and a busybox.
const (
	systemd1 = lab.Domain + "/systemd:1" // Debian 12's, with the VOLUME /srv/data
	systemd2 = lab.Domain + "/systemd:2"
	busybox1 = lab.Domain + "/busybox-init:1"
	dumb1    = lab.Domain + "/dumb-init:1"
)

// daemonConfig has what an administrator says about rich containers and the node's hooks, whose folder it is given.
const daemonConfig = `
[runtime]
handlers = ["vm"]
[rich]
handlers = ["vm=systemd"]
root_namespaces = ["trusted"]
[hooks]
hooks_dirs = [%q]
grants = ["granted=NET_ADMIN"]
`

// richImages are pushed when the first test needs them: most need none.
var richImages struct {
	once sync.Once
	err  error
}

// startRich is start for tests of rich containers, which are skipped where the images are not built.
func startRich(t testing.TB) *node {
	t.Helper()
	n := start(t)
	richImages.once.Do(func() { richImages.err = n.pushRichImages() })
	if errors.Is(richImages.err, os.ErrNotExist) {
		t.Skipf("%v: make rich-images probe", richImages.err)
	}
	if richImages.err != nil {
		t.Fatalf("push the images with inits: %v", richImages.err)
	}
	return n
}

func (n *node) pushRichImages() error {
	dir := os.Getenv("CRI_POUCH_RICH_IMAGES")
	if dir == "" {
		top, err := filepath.Abs("../..")
		if err != nil {
			return err
		}
		dir = filepath.Join(top, "build/rich")
	}
	probe, err := lab.ProbeFile(filepath.Join(dir, "probe"))
	if err != nil {
		return err
	}
	busybox, err := os.ReadFile(lab.Busybox)
	if err != nil {
		return err
	}
	debian := append(services(), probe, lab.File{Name: "usr/local/bin/busybox", Mode: 0o755, Content: busybox}, lab.File{Name: "srv/data/"})
	volume := func(c *v1.ConfigFile) { c.Config.Volumes = map[string]struct{}{"/srv/data": {}} }
	for version := 1; version <= 2; version++ {
		if err := n.pushRich(fmt.Sprintf("systemd:%d", version), dir, "systemd", volume, append(debian, versionFile(version))); err != nil {
			return err
		}
	}
	if err := n.pushRich("dumb-init:1", dir, "dumb-init", nil, []lab.File{probe, versionFile(1)}); err != nil {
		return err
	}
	files, err := lab.BusyboxFiles()
	if err != nil {
		return err
	}
	files = append(files, probe, versionFile(1), lab.File{Name: "sbin/init", Link: "/bin/busybox"},
		lab.File{Name: "etc/inittab", Content: []byte("::shutdown:/bin/touch /witness/stopped\n")})
	return n.pushRich("busybox-init:1", dir, "", nil, files)
}

// pushRich pushes an image of files over a root filesystem of rich-images.sh; an empty name is none.
func (n *node) pushRich(tag, dir, rootfs string, edit func(*v1.ConfigFile), files []lab.File) error {
	var layers []v1.Layer
	if rootfs != "" {
		l, err := lab.RootfsLayer(dir, rootfs)
		if err != nil {
			return err
		}
		layers = append(layers, l)
	}
	l, err := lab.Layer(files...)
	if err != nil {
		return err
	}
	img, err := lab.Image(edit, append(layers, l)...)
	if err != nil {
		return err
	}
	return n.Lab.Images.Push(tag, img)
}

func versionFile(version int) lab.File {
	return lab.File{Name: "version", Content: fmt.Appendln(nil, version)}
}

// services are units of the images with systemd: one that sees the shutdown where a folder is mounted for it, and one that
// takes memory until it is killed, once it is started.
func services() []lab.File {
	return []lab.File{
		{Name: "etc/systemd/system/witness.service", Content: []byte(`[Unit]
ConditionPathExists=/witness
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true
ExecStop=/bin/sh -c 'sleep 0.5; touch /witness/stopped'
`)},
		{Name: "etc/systemd/system/multi-user.target.wants/witness.service", Link: "../witness.service"},
		{Name: "etc/systemd/system/hungry.service", Content: []byte(`[Service]
ExecStart=/usr/local/bin/probe sleep=500ms grow
ExecStopPost=/bin/sh -c 'echo $SERVICE_RESULT >/witness/new; mv /witness/new /witness/result'
`)},
	}
}

// richAnnotations are set by pairs without their prefix.
func richAnnotations(pairs ...string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		if p.Annotations == nil {
			p.Annotations = map[string]string{}
		}
		for i := 0; i+1 < len(pairs); i += 2 {
			p.Annotations["rich.cri-pouch.io/"+pairs[i]] = pairs[i+1]
		}
	}
}

// probe is a container that runs the probe of its image with these actions.
func probe(name, image string, actions ...string) corev1.Container {
	return corev1.Container{Name: name, Image: image, Command: append([]string{lab.Probe}, actions...)}
}

// witnessed mounts a new folder of the node at /witness into the pod's first container, and gives it.
func witnessed(t testing.TB, p *corev1.Pod) string {
	t.Helper()
	dir := t.TempDir()
	p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "witness", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir}}})
	c := &p.Spec.Containers[0]
	c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: "witness", MountPath: "/witness"})
	return dir
}
