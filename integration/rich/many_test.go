package rich

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// After each of the cycles nothing runs and no cgroup is left; after the last, the harness compares the whole machine with
// what it was before.
func TestTwentyCyclesLeakNothing(t *testing.T) {
	for _, m := range []machine{{"systemd", "systemd"}, {"sysvinit", "sbin-init"}} {
		t.Run(m.name(), func(t *testing.T) {
			n := harness.Start(t)
			ref := push(t, n, m.image, "1", nil)
			var starts, ends []time.Duration
			for i := range 20 {
				p := n.RunPod(t, pod(m.mode))
				c := p.Create(t, "app", probe(ref, "wait", "exit=2"))
				begin := time.Now()
				c.Start(t)
				c.AwaitLine(t, boot, "waiting")
				starts = append(starts, time.Since(begin))
				begin = time.Now()
				if i%2 == 0 {
					c.Stop(t, 25)
				} else {
					c.Exec(t, "sh", "-c", "kill -USR1 $(pidof probe)")
				}
				_, code := c.Ended(t)
				ends = append(ends, time.Since(begin))
				p.Remove(t)
				if code != 2 {
					t.Fatalf("cycle %d: code %d", i, code)
				}
				if left, err := n.Processes(); err != nil || len(left) > 0 {
					t.Fatalf("cycle %d: processes are left: %v %v", i, left, err)
				}
				if left, err := n.Cgroups(); err != nil || len(left) > 0 {
					t.Fatalf("cycle %d: cgroups are left: %v %v", i, left, err)
				}
			}
			slices.Sort(starts)
			slices.Sort(ends)
			t.Logf("StartContainer to the application's first line: median %s, most %s; end: median %s, most %s",
				starts[10].Round(time.Millisecond), starts[19].Round(time.Millisecond), ends[10].Round(time.Millisecond), ends[19].Round(time.Millisecond))
		})
	}
}

func TestTenRichPodsAtOnce(t *testing.T) {
	each(t, []machine{{"systemd", "systemd"}, {"busybox", "sbin-init"}}, func(t *testing.T, n *harness.Node, m machine, ref string) {
		n.Pull(t, ref)
		var pods []*harness.Pod
		for range 10 {
			pods = append(pods, n.RunPod(t, pod(m.mode)))
		}
		codes := make([]int32, len(pods))
		errs := make([]error, len(pods))
		var all sync.WaitGroup
		for i, p := range pods {
			all.Go(func() { codes[i], errs[i] = life(t, p, ref) })
		}
		all.Wait()
		for i := range pods {
			if errs[i] != nil || codes[i] != 11 {
				t.Errorf("pod %d: code %d, %v", i, codes[i], errs[i])
			}
		}
	})
}

// life creates a container, starts it, stops it and gives its exit code. It runs beside others, so it does not end the test.
func life(t *testing.T, p *harness.Pod, ref string) (int32, error) {
	ctx := harness.Context(t)
	config := p.ContainerConfig("app", probe(ref, "say=up", "sleep=2s", "exit=11"))
	id, err := p.TryCreate(ctx, config)
	if err != nil {
		return 0, err
	}
	cri := p.Node.Daemon.Runtime
	if _, err := cri.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: id}); err != nil {
		return 0, err
	}
	for ctx.Err() == nil {
		s, err := cri.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: id})
		if err != nil {
			return 0, err
		}
		if s.Status.State == runtime.ContainerState_CONTAINER_EXITED {
			return s.Status.ExitCode, nil
		}
		time.Sleep(20 * time.Millisecond) // for the state of ten containers at once
	}
	return 0, fmt.Errorf("the container never ended: %w", ctx.Err())
}
