package kubelet

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/kubelet/cluster"
	"github.com/cri-pouch/cri-pouch/integration/lab"
)

// diskSize is of the runtime's filesystem, in bytes. The kubelet calls it full when less than a quarter is free.
const diskSize = 1200 << 20

// bigSize is of an image's only layer, which does not compress: unpacked and as content it takes twice that.
const bigSize = 60 << 20

func TestFullDiskTakesUnusedImagesOnly(t *testing.T) {
	n := start(t)
	p := n.run(t, upgradePod()) // uses app1
	before := p.look(t, "web")
	for _, image := range []string{app2, n.pushBig(t)} {
		if _, err := n.Lab.Daemon.Images.PullImage(limited(t), &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: image}}); err != nil {
			t.Fatal(err)
		}
	}
	// A kubelet spares images that it has only just seen; those that were there before it are old enough.
	if err := n.RestartKubelet(limited(t), n.Kubelet); err != nil {
		t.Fatal(err)
	}
	// It has taken over the pods that ran when it runs another one.
	n.run(t, podOf("after", []corev1.Container{sh("app", app1, "sleep infinity")}))
	// Fill it up to a fifth: without the big image more than a quarter is free.
	filler := filepath.Join(n.Disk, "filler")
	var s unix.Statfs_t
	if err := unix.Statfs(n.Disk, &s); err != nil {
		t.Fatal(err)
	}
	free, total := int64(s.Bavail)*s.Bsize, int64(s.Blocks)*s.Bsize
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	t.Cleanup(func() { _ = os.Remove(filler) })
	if err := unix.Fallocate(int(f.Fd()), 0, 0, free-total/5); err != nil {
		t.Fatal(err)
	}
	n.awaitDiskPressure(t, corev1.ConditionTrue)
	n.awaitDiskPressure(t, corev1.ConditionFalse)
	images, err := n.Lab.Daemon.Images.ListImages(limited(t), &runtime.ListImagesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var tags []string
	for _, i := range images.Images {
		tags = append(tags, i.RepoTags...)
	}
	if !slices.Contains(tags, app1) || slices.Contains(tags, app2) || slices.Contains(tags, lab.Domain+"/big:1") {
		t.Errorf("images that are left: %v, want %s, which is in use, and none that is not", tags, app1)
	}
	before.same(t, p.look(t, "web"))
	if now := p.get(t); now.Status.Phase != corev1.PodRunning || !isReady(now) {
		t.Errorf("the pod is %s: %s", now.Status.Phase, now.Status.Message)
	}
}

// pushBig pushes an image that nobody can compress.
func (n *node) pushBig(t testing.TB) string {
	t.Helper()
	noise := make([]byte, bigSize)
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	layer, err := lab.Layer(lab.File{Name: "noise", Content: noise})
	if err != nil {
		t.Fatal(err)
	}
	img, err := lab.Image(nil, layer)
	if err == nil {
		err = n.Lab.Images.Push("big:1", img)
	}
	if err != nil {
		t.Fatal(err)
	}
	return lab.Domain + "/big:1"
}

func (n *node) awaitDiskPressure(t testing.TB, status corev1.ConditionStatus) {
	t.Helper()
	if _, err := cluster.Await(limited(t), n.Client.CoreV1().RESTClient(), "nodes", "", n.Node(), func(now *corev1.Node) (bool, error) {
		return slices.ContainsFunc(now.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeDiskPressure && c.Status == status
		}), nil
	}); err != nil {
		t.Fatalf("wait until DiskPressure is %s: %v", status, err)
	}
}

// What a container writes counts, into its root filesystem as into its image's VOLUMEs.
func TestPodIsEvictedForItsWritableLayer(t *testing.T) {
	t.Parallel()
	n := start(t)
	for name, path := range map[string]string{"root filesystem": "/big", "volume of the image": "/srv/data/big"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			app := sh("app", volumes1, "dd if=/dev/zero of="+path+" bs=1M count=12; sleep infinity")
			app.Resources.Limits = corev1.ResourceList{corev1.ResourceEphemeralStorage: resource.MustParse("4Mi")}
			p := n.create(t, podOf("evicted", []corev1.Container{app}))
			now := p.await(t, "the pod is evicted", func(now *corev1.Pod) bool { return now.Status.Reason == "Evicted" })
			if now.Status.Phase != corev1.PodFailed || !strings.Contains(now.Status.Message, "ephemeral local storage") {
				t.Errorf("the pod is %s: %s", now.Status.Phase, now.Status.Message)
			}
		})
	}
}
