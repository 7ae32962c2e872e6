package integration

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
	"github.com/cri-pouch/cri-pouch/integration/lab"
)

var (
	// VolumeSteps are passed when a container's volumes are made.
	VolumeSteps = []string{"volume.filled", "volume.named"}
	// VolumeEndSteps are passed when a pod's volumes are removed.
	VolumeEndSteps = []string{"volume.dropped"}
)

// A daemon that dies while it fills volumes leaves no half of one: they are begun anew, and nothing stays behind.
func TestKilledWhileMakingVolumes(t *testing.T) {
	n := harness.Start(t, harness.Failpoints(t))
	b := newBystander(t, n)
	ref := pushVolumes(t, n, "seeded", []string{"/data", "/srv/www"}, lab.File{Name: "data/seed", Content: []byte("seed\n")}, lab.File{Name: "srv/www/seed", Content: []byte("www\n")})
	n.Pull(t, ref)
	for _, step := range VolumeSteps {
		for _, retry := range []bool{true, false} {
			p := n.RunPod(t)
			c := p.ContainerConfig("app", image(ref, 0))
			killedAt(t, n, step, func(ctx context.Context) error {
				_, err := p.TryCreate(ctx, c)
				return err
			})
			b.check(t)
			for _, d := range volumeDirs(t, n) {
				if strings.HasSuffix(d, "%new") {
					t.Errorf("%s: %s is left after the next start", step, d)
				}
			}
			if retry {
				if left := listContainers(t, n, &runtime.ContainerFilter{PodSandboxId: p.ID}); len(left) != 0 {
					t.Errorf("%s: %d containers are listed", step, len(left))
				}
				again := p.Run(t, "app", image(ref, 0))
				if got := again.Exec(t, "cat", "/data/seed", "/srv/www/seed"); got != "seed\nwww\n" {
					t.Errorf("%s: the retry sees %q", step, got)
				}
			}
			p.Remove(t)
			harness.Eventually(t, "nothing is left of the pod's volumes", func() bool {
				left, err := os.ReadDir(filepath.Join(n.RootDir(), "volumes"))
				return err == nil && len(left) == 0
			})
		}
	}
}

// A daemon that dies while it takes down a pod keeps the pod's volumes as long as the pod is there, and removes them in the
// end.
func TestKilledWhileRemovingVolumes(t *testing.T) {
	n := harness.Start(t, harness.Failpoints(t))
	b := newBystander(t, n)
	ref := pushVolumes(t, n, "seeded", []string{"/data"}, lab.File{Name: "data/seed", Content: []byte("seed\n")})
	none := func() bool {
		left, err := os.ReadDir(filepath.Join(n.RootDir(), "volumes"))
		return err == nil && len(left) == 0
	}
	for _, step := range append([]string{"container.remove-rootfs", "sandbox.detached", "sandbox.emptied"}, VolumeEndSteps...) {
		p := n.RunPod(t)
		c := p.Run(t, "app", image(ref, 0))
		killedAt(t, n, step, func(ctx context.Context) error { return takeDown(ctx, n, p.ID, c.ID) })
		b.check(t)
		if slices.Contains(VolumeEndSteps, step) {
			harness.Eventually(t, "the volumes are removed after the start", none)
		} else if none() {
			t.Errorf("%s: the volumes are gone before their pod", step)
		}
		if err := takeDown(harness.Context(t), n, p.ID, c.ID); err != nil {
			t.Errorf("%s: the retry fails: %v", step, err)
		}
		if !none() {
			t.Errorf("%s: volumes are left", step)
		}
	}
}
