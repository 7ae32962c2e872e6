package integration

import (
	"errors"
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// zeros never ends.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// On a full disk the kubelet removes containers to free it. Neither history nor journal is in the way, and both go on once
// there is space.
func TestAFullDiskHoldsNoRemovalUp(t *testing.T) {
	harness.NeedRoot(t)
	root := t.TempDir()
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, "size=48m,mode=0711"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(root, 0); err != nil {
			t.Errorf("unmount the small disk: %v", err)
		}
	})
	n := harness.Start(t, harness.Root(root+"/root"))
	p := n.RunPod(t)
	var dead []*harness.Container
	for i := range uint32(8) {
		c := p.Run(t, "web", version(i, harness.Busybox, "aaaa"))
		c.Stop(t, 0)
		dead = append(dead, c)
	}
	filler, err := os.Create(root + "/filler")
	if err != nil {
		t.Fatal(err)
	}
	defer filler.Close()
	if _, err := io.Copy(filler, zeros{}); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk is filled with %v", err)
	}
	for _, c := range dead[:7] {
		c.Remove(t)
	}
	if got := listContainers(t, n, nil); len(got) != 1 {
		t.Errorf("%d containers are listed", len(got))
	}
	if err := filler.Truncate(0); err != nil {
		t.Fatal(err)
	}
	c := p.Run(t, "web", version(8, harness.Busybox, "bbbb"))
	dead[7].Remove(t)
	restarted(t, n, func() {
		all := historyOf(t, p, "web")
		if len(all) < 2 || all[len(all)-1].ContainerId != c.ID || all[len(all)-2].ContainerId != dead[7].ID {
			t.Errorf("history is %v", all)
		}
	})
}
