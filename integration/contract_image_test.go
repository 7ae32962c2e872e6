package integration

import (
	"slices"
	"strings"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
	"github.com/cri-pouch/cri-pouch/integration/lab"
)

// The rules of what the kubelet and others require of a runtime, each as a test. These are the ones about images.

// push stores one and the same image under names in the node's registry.
func push(t testing.TB, n *harness.Node, content string, names ...string) {
	t.Helper()
	img, err := lab.BusyboxImage(content, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if err := n.Images.Push(name, img); err != nil {
			t.Fatal(err)
		}
	}
}

// askedFor makes a container as the kubelet does: created by the image's ID, with the name from the pod's spec beside it.
func askedFor(id, spec string) func(*runtime.ContainerConfig) {
	return func(c *runtime.ContainerConfig) { c.Image = &runtime.ImageSpec{Image: id, UserSpecifiedImage: spec} }
}

// restarted calls check with the daemon as it is, and again after it was killed.
func restarted(t *testing.T, n *harness.Node, check func()) {
	t.Helper()
	check()
	n.KillDaemon(t)
	n.StartDaemon(t)
	check()
}

func TestContractRule01ImageIsWhatWasAskedFor(t *testing.T) {
	n := harness.Start(t)
	push(t, n, "three", "app:1", "app:2", "app:latest", "other:1")
	id := n.Pull(t, lab.Domain+"/app:1")
	for _, name := range []string{"app:2", "app:latest", "other:1"} {
		if got := n.Pull(t, lab.Domain+"/"+name); got != id {
			t.Fatalf("%s has ID %s, app:1 has %s", name, got, id)
		}
	}
	digest := ""
	for _, i := range listImages(t, n) {
		for _, d := range i.RepoDigests {
			if i.Id == id && strings.HasPrefix(d, lab.Domain+"/app@") {
				digest = d
			}
		}
	}
	p := n.RunPod(t)
	containers := map[string]*harness.Container{}
	for name, image := range map[string]struct{ spec, shown string }{
		"one":     {lab.Domain + "/app:1", lab.Domain + "/app:1"},
		"two":     {lab.Domain + "/app:2", lab.Domain + "/app:2"},
		"neither": {lab.Domain + "/app", lab.Domain + "/app:latest"},
		"other":   {lab.Domain + "/other:1", lab.Domain + "/other:1"},
		"digest":  {digest, digest},
	} {
		containers[image.shown] = p.Run(t, name, askedFor(id, image.spec))
	}
	restarted(t, n, func() {
		for want, c := range containers {
			if got := c.Status(t).GetImage().GetImage(); got != want {
				t.Errorf("the container that asked for %s shows %s", want, got)
			}
		}
	})
}

func TestContractRule02ImageRefIsTheDigestInTheRepositoryAskedFor(t *testing.T) {
	n := harness.Start(t)
	push(t, n, "three", "here:1", "there:1")
	id := n.Pull(t, lab.Domain+"/here:1")
	n.Pull(t, lab.Domain+"/there:1")
	p := n.RunPod(t)
	here, there := p.Run(t, "here", askedFor(id, lab.Domain+"/here:1")), p.Run(t, "there", askedFor(id, lab.Domain+"/there:1"))
	wantHere, wantThere := here.Status(t).ImageRef, there.Status(t).ImageRef
	if !strings.HasPrefix(wantHere, lab.Domain+"/here@sha256:") || !strings.HasPrefix(wantThere, lab.Domain+"/there@sha256:") {
		t.Fatalf("image_ref is %s and %s", wantHere, wantThere)
	}
	// The tag moves on; the container does not.
	push(t, n, "four", "here:1")
	if moved := n.Pull(t, lab.Domain+"/here:1"); moved == id {
		t.Fatal("the tag has not moved")
	}
	restarted(t, n, func() {
		for c, want := range map[*harness.Container]string{here: wantHere, there: wantThere} {
			if s := c.Status(t); s.ImageRef != want || s.ImageId != id {
				t.Errorf("image_ref is %s, was %s; image_id is %s, was %s", s.ImageRef, want, s.ImageId, id)
			}
			listed := listContainers(t, n, &runtime.ContainerFilter{Id: c.ID})
			if len(listed) != 1 || listed[0].ImageRef != want || listed[0].ImageId != id {
				t.Errorf("the list says %v", listed)
			}
		}
	})
}

func TestContractRule03OneImageIDEverywhere(t *testing.T) {
	n := harness.Start(t)
	pulled := n.Pull(t, harness.Busybox)
	c := n.RunPod(t).Run(t, "app")
	if got := c.Status(t).ImageId; got != pulled {
		t.Errorf("ContainerStatus.image_id is %s, PullImage gave %s", got, pulled)
	}
	if !slices.ContainsFunc(listImages(t, n), func(i *runtime.Image) bool { return i.Id == pulled }) {
		t.Errorf("ListImages has no %s", pulled)
	}
	for _, name := range []string{harness.Busybox, pulled, c.Status(t).ImageRef} {
		r, err := n.Daemon.Images.ImageStatus(harness.Context(t), &runtime.ImageStatusRequest{Image: &runtime.ImageSpec{Image: name}})
		if err != nil || r.Image.GetId() != pulled || r.Image.GetSize() == 0 {
			t.Errorf("ImageStatus %s: %v, %v", name, r, err)
		}
	}
	if again := n.Pull(t, harness.Busybox); again != pulled {
		t.Errorf("a second pull gives %s", again)
	}
}

// A new version is fetched as far as it is new.
func TestAPullFetchesOnlyMissingLayers(t *testing.T) {
	n := harness.Start(t)
	n.Pull(t, harness.Busybox)
	before := len(n.Images.Served())
	n.Pull(t, harness.Busybox2)
	blobs := map[string]int{}
	for _, request := range n.Images.Served()[before:] {
		if method, path, _ := strings.Cut(request, " "); method == "GET" && strings.Contains(path, "/blobs/") {
			blobs[path]++
		}
	}
	// Its configuration and its top layer; the layer of busybox is there.
	if len(blobs) != 2 {
		t.Errorf("the pull of version 2 fetched %v", blobs)
	}
	for path, times := range blobs {
		if times != 1 {
			t.Errorf("%s was fetched %d times", path, times)
		}
	}
	before = len(n.Images.Served())
	push(t, n, "two", "busybox:same")
	n.Pull(t, lab.Domain+"/busybox:same")
	for _, request := range n.Images.Served()[before:] {
		if strings.HasPrefix(request, "GET ") && strings.Contains(request, "/blobs/") {
			t.Errorf("another tag of a present image asked for %s", request)
		}
	}
}
