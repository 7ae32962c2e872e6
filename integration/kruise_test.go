package integration

import (
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
	"github.com/cri-pouch/cri-pouch/integration/lab"
)

func TestKruiseSeesAnInPlaceUpdateComplete(t *testing.T) {
	n := harness.Start(t)
	k := startKruise(t, n)
	p := n.RunPod(t)
	uid := p.Config.Metadata.Uid
	p.Run(t, "app", asKubelet(p, harness.Busybox, "a1b2", 0))
	p.Run(t, "sidecar", asKubelet(p, harness.Busybox, "5ca1ab1e", 0))
	before, sidecar := k.newest(uid, "app"), k.newest(uid, "sidecar")
	if before.hash != 0xa1b2 || before.restarts != 0 || before.state != runtime.ContainerState_CONTAINER_RUNNING {
		t.Errorf("before: %+v", before)
	}
	if got := k.env(before.id)["FROM_METADATA"]; got != "value a1b2" {
		t.Errorf("the environment says %q", got)
	}

	// What the kubelet does when the image was edited.
	k.stop(before.id)
	n.Pull(t, harness.Busybox2)
	p.Run(t, "app", asKubelet(p, harness.Busybox2, "c3d4", 1))

	after := k.newest(uid, "app")
	switch {
	case after.id == before.id:
		t.Error("the container ID did not change")
	case after.hash != 0xc3d4 || after.restarts != 1:
		t.Errorf("hash %x, restarts %d", after.hash, after.restarts)
	case after.imageID == before.imageID || !strings.HasPrefix(after.imageID, lab.Domain+"/busybox@sha256:"):
		t.Errorf("imageID was %s and is %s", before.imageID, after.imageID)
	case after.image != harness.Busybox2:
		t.Errorf("status.image is %s, the pod's spec says %s", after.image, harness.Busybox2)
	case after.created <= before.created:
		t.Errorf("the successor was created at %d, not after %d", after.created, before.created)
	case k.env(after.id)["FROM_METADATA"] != "value c3d4":
		t.Errorf("the environment is still the old one")
	}
	if now := k.newest(uid, "sidecar"); now != sidecar {
		t.Errorf("the container beside it was %+v and is %+v", sidecar, now)
	}
	old := k.podStatus(uid)
	if i := slices.IndexFunc(old, func(s kruiseStatus) bool { return s.id == before.id }); i < 0 || old[i].state != runtime.ContainerState_CONTAINER_EXITED || old[i].imageID != before.imageID || old[i].finished == 0 {
		t.Errorf("the predecessor is not kept as it was: %+v", old)
	}
	// The daemon's restart changes nothing of what is compared.
	n.KillDaemon(t)
	n.StartDaemon(t)
	if again := k.newest(uid, "app"); again != after {
		t.Errorf("after a restart: %+v, before it %+v", again, after)
	}
}

// In-place completion also works between tags of one image: the imageID stays, so the image's name must be the one asked for.
func TestKruiseSeesAnUpdateBetweenTagsOfOneImage(t *testing.T) {
	n := harness.Start(t)
	img, err := lab.BusyboxImage("one", nil)
	if err == nil {
		err = n.Images.Push("busybox:same", img)
	}
	if err != nil {
		t.Fatal(err)
	}
	same := n.Ref("busybox:same")
	k := startKruise(t, n)
	p := n.RunPod(t)
	uid := p.Config.Metadata.Uid
	p.Run(t, "app", asKubelet(p, harness.Busybox, "1", 0))
	before := k.newest(uid, "app")
	k.stop(before.id)
	n.Pull(t, same)
	p.Run(t, "app", asKubelet(p, same, "2", 1))
	if after := k.newest(uid, "app"); after.imageID != before.imageID || after.image != same || before.image != harness.Busybox {
		t.Errorf("image %s (%s), before %s (%s)", after.image, after.imageID, before.image, before.imageID)
	}
}

func TestKruiseRecreatesAContainer(t *testing.T) {
	n := harness.Start(t)
	k := startKruise(t, n)
	p := n.RunPod(t)
	uid := p.Config.Metadata.Uid
	c := p.Run(t, "app", asKubelet(p, harness.Busybox, "f00d", 0), harness.Sh("trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done"))
	c.AwaitLog(t, "up")
	before := k.newest(uid, "app")
	// The hook's effect is seen in the container that it runs in, before the signal comes.
	k.stop(before.id, "sh", "-c", "echo preStop >/proc/1/fd/1")
	text, code := c.Ended(t)
	if code != 0 || !strings.Contains(text, "preStop") {
		t.Errorf("exit code %d, log %q", code, text)
	}
	p.Run(t, "app", asKubelet(p, harness.Busybox, "f00d", 1))
	after := k.newest(uid, "app")
	if after.id == before.id || after.restarts != 1 || after.hash != before.hash || after.imageID != before.imageID || after.state != runtime.ContainerState_CONTAINER_RUNNING {
		t.Errorf("before %+v, after %+v", before, after)
	}
	k.stop(before.id) // a second request for the same container: it has ended already
}

func TestKruiseProbesAPod(t *testing.T) {
	n := harness.Start(t)
	k := startKruise(t, n)
	c := n.RunPod(t).Run(t, "app")
	if r := k.exec(c.ID, 1, "sh", "-c", "echo fine; echo detail >&2"); r.ExitCode != 0 || string(r.Stdout) != "fine\n" || string(r.Stderr) != "detail\n" {
		t.Errorf("a probe that succeeds: %v", r)
	}
	if r := k.exec(c.ID, 1, "sh", "-c", "echo why; exit 3"); r.ExitCode != 3 || string(r.Stdout) != "why\n" {
		t.Errorf("a probe that fails: %v", r)
	}
	began := time.Now()
	_, err := k.runtime.ExecSync(harness.Context(t), &runtime.ExecSyncRequest{ContainerId: c.ID, Cmd: []string{"sleep", "1000"}, Timeout: 1})
	wantCode(t, err, codes.DeadlineExceeded)
	if took := time.Since(began); took > harness.Patience(harness.LongEnough) {
		t.Errorf("a probe of 1 s took %s", took)
	}
	_, err = k.runtime.ExecSync(harness.Context(t), &runtime.ExecSyncRequest{ContainerId: c.ID, Cmd: []string{"no-such-program"}, Timeout: 1})
	if err == nil {
		t.Error("a probe whose program is missing succeeds")
	}
}

func TestKruisePullsImages(t *testing.T) {
	// Without a network no pod is run first, whose image would have to be pulled without a password.
	n := harness.Start(t, harness.WithRegistry(lab.RegistryOptions{User: "puller", Password: "secret"}), harness.WithoutCNI())
	k := startKruise(t, n)
	good := &runtime.AuthConfig{Username: "puller", Password: "secret"}
	noMetadata := &runtime.PodSandboxConfig{Annotations: map[string]string{"apps.kruise.io/pulling-image-by": "kruise-daemon"}}
	for name, sandbox := range map[string]*runtime.PodSandboxConfig{"without metadata": noMetadata, "none": nil, "empty": {}} {
		t.Run("sandbox configuration "+name, func(t *testing.T) {
			k := &kruise{t, k.runtime, k.images, k.name}
			for what, auth := range map[string]*runtime.AuthConfig{"anonymous": nil, "wrong": {Username: "puller", Password: "wrong"}} {
				if err := k.pull(harness.Context(t), harness.Busybox, auth, sandbox); err == nil {
					t.Errorf("the registry let %s in", what)
				} else {
					wantError(t, err, harness.Busybox)
				}
			}
			// It goes through the secrets until one fits.
			if err := k.pull(harness.Context(t), harness.Busybox, good, sandbox); err != nil {
				t.Fatal(err)
			}
			if !k.has(harness.Busybox) {
				t.Error("the image is not listed by its tag")
			}
			if _, err := k.images.RemoveImage(harness.Context(t), &runtime.RemoveImageRequest{Image: &runtime.ImageSpec{Image: harness.Busybox}}); err != nil {
				t.Error(err)
			}
		})
	}
	err := k.pull(harness.Context(t), lab.Domain+"/absent:1", good, noMetadata)
	wantCode(t, err, codes.NotFound, "absent:1")
}
