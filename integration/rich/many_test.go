package rich

import (
	"errors"
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
					c.Stop(t, 90)
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

// Ten pods are started at once, run side by side, and are stopped at once.
func TestTenRichPodsAtOnce(t *testing.T) {
	each(t, []machine{{"systemd", "systemd"}, {"busybox", "sbin-init"}}, func(t *testing.T, n *harness.Node, m machine, ref string) {
		n.Pull(t, ref)
		var all []*harness.Container
		for range 10 {
			p := n.RunPod(t, pod(m.mode))
			all = append(all, &harness.Container{Config: p.ContainerConfig("app", probe(ref, "wait", "exit=11")), Pod: p})
		}
		together(t, all, func(c *harness.Container) (err error) {
			if c.ID, err = c.Pod.TryCreate(harness.Context(t), c.Config); err == nil {
				_, err = n.Daemon.Runtime.StartContainer(harness.Context(t), &runtime.StartContainerRequest{ContainerId: c.ID})
			}
			return err
		})
		for _, c := range all {
			c.AwaitLine(t, 2*boot, "waiting")
		}
		for _, c := range all {
			if s := c.Status(t); s.State != runtime.ContainerState_CONTAINER_RUNNING {
				t.Errorf("beside the others it is %s with code %d", s.State, s.ExitCode)
			}
		}
		together(t, all, func(c *harness.Container) error {
			_, err := n.Daemon.Runtime.StopContainer(harness.Context(t), &runtime.StopContainerRequest{ContainerId: c.ID, Timeout: 60})
			return err
		})
		for _, c := range all {
			if _, code := c.Ended(t); code != 11 {
				t.Errorf("code %d", code)
			}
		}
	})
}

// together does something with all containers at a time.
func together(t *testing.T, all []*harness.Container, do func(c *harness.Container) error) {
	t.Helper()
	errs := make([]error, len(all))
	var group sync.WaitGroup
	for i, c := range all {
		group.Go(func() { errs[i] = do(c) })
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}
