package spec

import (
	"testing"

	"github.com/containerd/errdefs"

	"github.com/cri-pouch/cri-pouch/cri/model"
	"github.com/cri-pouch/cri-pouch/integration/faults"
)

func TestRecursiveReadOnlyIsFound(t *testing.T) {
	if !hasMountSetattr() {
		t.Error("the kernel of this machine has mount_setattr(2)")
	}
}

func TestKernelWithoutMountSetattrHasNoRecursiveReadOnly(t *testing.T) {
	if faults.Again(t, "mount_setattr:error=ENOSYS") && hasMountSetattr() {
		t.Error("recursive read-only was found")
	}
}

func TestRecursiveReadOnlyIsRefusedWithoutIt(t *testing.T) {
	n, in := testNode(), input(t)
	n.RecursiveReadOnly = false
	in.Config.Mounts = []model.Mount{{ContainerPath: "/m", HostPath: t.TempDir(), Readonly: true, RecursiveReadOnly: true}}
	wantError(t, n, in, errdefs.IsFailedPrecondition, "mount_setattr")
	in.Config.Mounts[0].RecursiveReadOnly = false
	build(t, n, in)
}
