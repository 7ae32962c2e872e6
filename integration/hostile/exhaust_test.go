package hostile

import (
	"context"
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// checkWhile checks the bystander a few times while the attackers attack, ends them, and checks it once more.
func checkWhile(t *testing.T, b *bystander, attackers ...*harness.Container) {
	t.Helper()
	for range 3 {
		for _, c := range attackers {
			goesOn(t, c)
		}
		b.check("during the attack")
	}
	for _, c := range attackers {
		c.Stop(t, 0)
		c.Remove(t)
	}
	b.check("after the attack")
}

// Root of a container has the node's root user's share of inotify and epoll: it takes all that the user has.
func TestExhaustionOfWhatAUserHas(t *testing.T) {
	for _, what := range []string{"inotify", "epoll"} {
		t.Run(what, func(t *testing.T) {
			n := start(t)
			b := newBystander(t, n)
			a := attack(t, n.RunPod(t), "attacker", []string{what})
			checkWhile(t, b, a)
		})
	}
}

// The daemon and the shim begin, too, where nothing of inotify is left.
func TestADaemonStartsWhereInotifyIsExhausted(t *testing.T) {
	n := start(t)
	b := newBystander(t, n)
	a := attack(t, n.RunPod(t), "attacker", []string{"inotify"})
	n.KillDaemon(t)
	n.StartDaemon(t)
	checkWhile(t, b, a)
}

// Containers write newlines as fast as they can: each becomes a record of 41 bytes.
func TestFloodsOfLines(t *testing.T) {
	n := start(t)
	b := newBystander(t, n)
	before := n.ShimMemory(t)
	p := n.RunPod(t)
	var attackers []*harness.Container
	for i := range 4 {
		c := p.Run(t, "flood"+strconv.Itoa(i), hostile, harness.Command("/attacker", "flood"))
		harness.Eventually(t, c.Config.Metadata.Name+" floods its log", func() bool {
			st, err := os.Stat(c.LogFile())
			return err == nil && st.Size() > 4<<20
		})
		attackers = append(attackers, c)
	}
	for range 3 {
		b.check("during the flood")
	}
	for _, c := range attackers {
		if s := c.Status(t); s.State != runtime.ContainerState_CONTAINER_RUNNING {
			t.Errorf("%s is %s", c.Config.Metadata.Name, s.State)
		}
		c.Stop(t, 0)
		c.Remove(t)
	}
	b.check("after the flood")
	if grown := n.ShimMemory(t) - before; grown > 64<<20 {
		t.Errorf("the shim has grown by %d MiB", grown>>20)
	}
}

// While a launch into one pod is held up, the containers of others end: what their own launches leave is reaped.
func TestOthersEndWhileALaunchIsHeldUp(t *testing.T) {
	n := start(t)
	a := attack(t, n.RunPod(t), "attacker", []string{"stop"})
	done := held(1, func(int) {
		ctx, cancel := context.WithTimeout(context.Background(), harness.Patience(3*time.Minute))
		defer cancel()
		_, err := n.Daemon.Runtime.ExecSync(ctx, &runtime.ExecSyncRequest{ContainerId: a.ID, Cmd: []string{"true"}, Timeout: 90})
		if err == nil {
			t.Error("the attack has held nothing up")
		}
	})
	p := n.RunPod(t)
	for round := 0; ; round++ {
		c := p.Run(t, "c"+strconv.Itoa(round))
		// Its end comes while execs are on their way into it.
		execs := held(4, func(int) {
			for {
				ctx, cancel := context.WithTimeout(context.Background(), harness.Patience(time.Minute))
				_, err := n.Daemon.Runtime.ExecSync(ctx, &runtime.ExecSyncRequest{ContainerId: c.ID, Cmd: []string{"true"}, Timeout: 30})
				cancel()
				if err != nil {
					return
				}
			}
		})
		c.Exec(t, "true")
		c.Stop(t, 0)
		<-execs
		c.Remove(t)
		select {
		case <-done:
			if round < 5 {
				t.Errorf("the launch was held up for %d ends of others", round)
			}
			return
		default:
		}
	}
}

// A shim begins where root's inotify instances are all in use, and what it would be told by them it looks for.
func TestAShimStartsWhereInotifyIsExhausted(t *testing.T) {
	var taken []int
	t.Cleanup(func() { // after the node's end, which would use what becomes free
		for _, fd := range taken {
			_ = unix.Close(fd)
		}
	})
	for {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
		if err != nil {
			break
		}
		taken = append(taken, fd)
	}
	b := newBystander(t, start(t))
	b.check("without inotify")
}
