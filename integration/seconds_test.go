package integration

import (
	"fmt"
	"math"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// These many seconds do not fit into Go's durations: the first two would come out negative, the last as 0.29 s.
var hugeSeconds = []int64{math.MaxInt64, math.MaxInt64/1_000_000_000 + 1, 18446744074}

func TestHugeTimesAreLong(t *testing.T) {
	n := harness.Start(t)
	n.Pull(t, harness.Busybox)
	p := n.RunPod(t)
	stop := func(t *testing.T, c *harness.Container, timeout int64) <-chan error {
		done := make(chan error, 1)
		go func() {
			_, err := n.Daemon.Runtime.StopContainer(harness.Context(t), &runtime.StopContainerRequest{ContainerId: c.ID, Timeout: timeout})
			done <- err
		}()
		return done
	}
	const script = `trap 'echo stop-signal' TERM; echo ready; while [ ! -e /end ]; do sleep 0.1; done; exit 7`
	for _, timeout := range hugeSeconds {
		t.Run(fmt.Sprintf("a container has %d s to stop", timeout), func(t *testing.T) {
			c := p.Run(t, fmt.Sprintf("app-%d", timeout), harness.Sh(script))
			c.AwaitLog(t, "ready")
			done := stop(t, c, timeout)
			c.AwaitLog(t, "stop-signal")
			c.Exec(t, "touch", "/end")
			if err := <-done; err != nil {
				t.Error(err)
			}
			if _, code := c.Ended(t); code != 7 {
				t.Errorf("exit code %d, want the program's own", code)
			}
		})
		t.Run(fmt.Sprintf("a command has %d s", timeout), func(t *testing.T) {
			c := p.Run(t, fmt.Sprintf("exec-%d", timeout), harness.Sh("sleep 1000"))
			r, err := n.Daemon.Runtime.ExecSync(harness.Context(t), &runtime.ExecSyncRequest{ContainerId: c.ID, Cmd: []string{"sleep", "1"}, Timeout: timeout})
			if err != nil || r.ExitCode != 0 {
				t.Errorf("%v, %v", r, err)
			}
			c.Stop(t, 0)
		})
	}
	for _, timeout := range []int64{-1, -math.MaxInt64/1_000_000_000 - 1, math.MinInt64} {
		t.Run(fmt.Sprintf("%d s to stop are none", timeout), func(t *testing.T) {
			c := p.Run(t, fmt.Sprintf("late%d", timeout), harness.Sh(script))
			c.AwaitLog(t, "ready")
			if err := <-stop(t, c, timeout); err != nil {
				t.Error(err)
			}
			if _, code := c.Ended(t); code != 137 {
				t.Errorf("exit code %d, want 137", code)
			}
		})
	}
}
