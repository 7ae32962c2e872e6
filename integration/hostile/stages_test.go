package hostile

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
	"github.com/cri-pouch/cri-pouch/internal/hookrun"
)

// crowd is how many launches are held up at once: more than a node has slots for.
const crowd = 12

// held runs so many calls side by side and gives a channel that is closed when all have come back.
func held(n int, call func(i int)) <-chan struct{} {
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { call(i) })
	}
	done := make(chan struct{})
	go func() {
		all.Wait()
		close(done)
	}()
	return done
}

// whileHeld checks the bystander until the calls that the attack holds up have come back, and once more.
func whileHeld(t *testing.T, b *bystander, attacker *harness.Container, done <-chan struct{}) {
	t.Helper()
	for rounds := 0; ; rounds++ {
		select {
		case <-done:
			b.check("after the attack")
			return
		default:
		}
		goesOn(t, attacker)
		b.check("during the attack")
	}
}

// Root of a container stops or kills what is launched into it, as early as it can.
func TestSignalsAtTheStagesOfAnExec(t *testing.T) {
	for _, signal := range []string{"stop", "kill"} {
		t.Run(signal, func(t *testing.T) {
			t.Parallel()
			n := start(t)
			b := newBystander(t, n)
			var victims []*harness.Container
			for range 3 {
				p := n.RunPod(t)
				for i := range crowd / 3 {
					victims = append(victims, attack(t, p, "attacker"+strconv.Itoa(i), []string{signal}))
				}
			}
			enough := make(chan struct{})
			done := held(crowd, func(i int) {
				for again := true; again; {
					ctx, cancel := context.WithTimeout(context.Background(), harness.Patience(3*time.Minute))
					_, err := n.Daemon.Runtime.ExecSync(ctx, &runtime.ExecSyncRequest{ContainerId: victims[i].ID, Cmd: []string{"true"}, Timeout: 20})
					cancel()
					if err != nil {
						refusedLate(t, "exec in the attacker's container", err)
					}
					select {
					case <-enough:
						again = false
					default:
						again = signal == "kill" // which comes back at once
					}
				}
			})
			if signal == "kill" {
				for range 5 {
					b.check("during the attack")
				}
				close(enough)
			}
			whileHeld(t, b, victims[0], done)
			for _, c := range victims {
				c.Stop(t, 0)
				c.Remove(t)
			}
			b.check("after the attacker's end")
		})
	}
}

// A container is created in a pid namespace where root of another one stops what appears.
func TestSignalsAtTheStagesOfACreation(t *testing.T) {
	for _, signal := range []string{"stop", "kill"} {
		t.Run(signal, func(t *testing.T) {
			t.Parallel()
			n := start(t)
			b := newBystander(t, n)
			var victims []*harness.Container
			var attackers []*harness.Container
			for range 3 {
				p := n.RunPod(t, shared)
				for i := range crowd / 3 {
					victims = append(victims, p.Create(t, "victim"+strconv.Itoa(i)))
				}
				attackers = append(attackers, attack(t, p, "attacker", []string{signal}))
			}
			started := make([]error, crowd)
			done := held(crowd, func(i int) {
				ctx, cancel := context.WithTimeout(context.Background(), harness.Patience(4*time.Minute))
				defer cancel()
				_, started[i] = n.Daemon.Runtime.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: victims[i].ID})
			})
			if signal == "stop" {
				whileHeld(t, b, attackers[0], done)
			} else {
				<-done
				b.check("during the attack")
			}
			for i, c := range victims {
				reportedAsItIs(t, c, started[i])
			}
			for _, c := range append(attackers, victims...) {
				c.Stop(t, 0)
				c.Remove(t)
			}
			b.check("after the attackers' end")
		})
	}
}

// reportedAsItIs fails the test where a container whose start has failed is said to have ended while a process of it lives.
func reportedAsItIs(t *testing.T, c *harness.Container, started error) {
	t.Helper()
	s := c.Status(t)
	if started != nil && s.State == runtime.ContainerState_CONTAINER_RUNNING {
		t.Errorf("%s is running although its start failed: %v", c.Config.Metadata.Name, started)
	}
	if s.State != runtime.ContainerState_CONTAINER_EXITED {
		return
	}
	if left := processesOf(t, c); len(left) > 0 {
		t.Errorf("%s is said to have ended (%s), and has processes: %v", c.Config.Metadata.Name, s.Reason, left)
	}
}

// processesOf gives the numbers of the processes in a container's cgroups.
func processesOf(t *testing.T, c *harness.Container) (pids []string) {
	t.Helper()
	err := filepath.WalkDir("/sys/fs/cgroup", func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Name() == "cgroup.procs" && strings.Contains(path, c.ID) {
			b, _ := os.ReadFile(path)
			pids = append(pids, strings.Fields(string(b))...)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return pids
}

// A hook is launched where root of the container, or of another one in its pid namespace, stops what appears.
func TestSignalsAtTheStagesOfAHook(t *testing.T) {
	for _, stage := range []hookrun.Stage{hookrun.Prestart, hookrun.Poststop} {
		t.Run(string(stage), func(t *testing.T) {
			t.Parallel()
			n := start(t)
			b := newBystander(t, n)
			var victims, attackers []*harness.Container
			for range 3 {
				p := n.RunPod(t, shared, harness.Hooks(t, stage,
					// It wakes the attacker up, so that not the creation is held up but the next hook.
					harness.ShellHook("signal", "killall -USR1 attacker || true", "onFailure", "ignore"),
					harness.ShellHook("held", "true", "timeout", "20s")))
				for i := range crowd / 3 {
					c := p.Create(t, "victim"+strconv.Itoa(i))
					if stage == hookrun.Poststop {
						c.Start(t)
					}
					victims = append(victims, c)
				}
				attackers = append(attackers, attack(t, p, "attacker", []string{"await", "stop"}))
			}
			results := make([]error, crowd)
			done := held(crowd, func(i int) {
				ctx, cancel := context.WithTimeout(context.Background(), harness.Patience(4*time.Minute))
				defer cancel()
				r := n.Daemon.Runtime
				if stage == hookrun.Prestart {
					_, results[i] = r.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: victims[i].ID})
				} else {
					_, results[i] = r.StopContainer(ctx, &runtime.StopContainerRequest{ContainerId: victims[i].ID})
				}
			})
			whileHeld(t, b, attackers[0], done)
			for i, c := range victims {
				if code := status.Code(results[i]); stage == hookrun.Poststop && code != codes.OK {
					t.Errorf("stop of %s: %v", c.Config.Metadata.Name, results[i])
				}
				reportedAsItIs(t, c, results[i])
			}
			for _, c := range append(attackers, victims...) {
				c.Stop(t, 0)
				c.Remove(t)
			}
			b.check("after the attackers' end")
		})
	}
}
