package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// An exec that is being made while its container dies leaves a child to the shim that libcontainer has forgotten. As long as
// it is a zombie the kernel does not let the container's init end.
func TestContainerEndsWhileExecsAreBeingMade(t *testing.T) {
	n := harness.Start(t)
	n.Pull(t, harness.Busybox)
	for pod := range 4 {
		t.Run(fmt.Sprint("pod ", pod), func(t *testing.T) {
			t.Parallel()
			p := n.RunPod(t)
			for i := range 12 {
				if !endDuringExecs(t, p, fmt.Sprintf("c%d", i)) {
					return
				}
			}
		})
	}
}

// endDuringExecs stops a container while two clients go on running commands in it, and says whether it ended.
func endDuringExecs(t *testing.T, p *harness.Pod, name string) bool {
	t.Helper()
	c := p.Run(t, name)
	ctx, cancel := context.WithCancel(harness.Context(t))
	var clients sync.WaitGroup
	for range 2 {
		clients.Go(func() {
			for ctx.Err() == nil { // it fails once the container ends
				_, _ = p.Node.Daemon.Runtime.ExecSync(ctx, &runtime.ExecSyncRequest{ContainerId: c.ID, Cmd: []string{"true"}, Timeout: 60})
			}
		})
	}
	time.Sleep(time.Duration(rand.IntN(100)) * time.Millisecond) // at any step of them
	limit, done := context.WithTimeout(context.Background(), harness.Patience(harness.LongEnough))
	_, err := p.Node.Daemon.Runtime.StopContainer(limit, &runtime.StopContainerRequest{ContainerId: c.ID})
	done()
	cancel()
	clients.Wait()
	if err != nil {
		t.Errorf("StopContainer %s: %v", name, err)
		return false
	}
	c.Remove(t)
	return true
}
