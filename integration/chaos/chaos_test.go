package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

const (
	clients     = 6               // at once, where -parallel lets them
	patience    = 2 * time.Minute // for one thing that a client wants, over all of its tries
	startLimit  = 30 * time.Second
	longestLife = 1500 * time.Millisecond // of a daemon, after it is ready
	longestGap  = 400 * time.Millisecond  // between two
	longestWait = 100 * time.Millisecond  // of a client that gives up
)

// A daemon is killed at random moments while clients run, exec into, replace, stop and remove containers with hooks, as a
// kubelet does: they repeat what failed. Every program begins once and ends as it was told to, every hook after the end runs
// once with the right code, logs have every line, the journal tells each step once, and nothing is left.
func TestNoPodNoticesTheDaemonsDeaths(t *testing.T) {
	limit, err := time.ParseDuration(os.Getenv("CRI_POUCH_CHAOS"))
	if err != nil {
		t.Skip("set CRI_POUCH_CHAOS to a duration: make chaos")
	}
	n := harness.Start(t)
	for _, image := range images {
		n.Pull(t, image)
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	killer := startKiller(t, n)
	steady := newSteady(t, n)
	t.Run("clients", func(t *testing.T) {
		for i := range clients {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				for lives := 0; ; lives++ {
					if ctx.Err() != nil || t.Failed() {
						t.Logf("%d lives of pods", lives)
						return
					}
					live(t, n)
				}
			})
		}
	})
	killer.stop()
	steady.check(t)
	t.Logf("the daemon was killed %d times", killer.kills.Load())
	if killer.kills.Load() == 0 {
		t.Error("the daemon was never killed")
	}
}

// killer ends the daemon and starts it again, until it is stopped. The daemon runs then.
type killer struct {
	kills  atomic.Int64
	ending chan struct{}
	done   chan struct{}
	once   sync.Once
}

func startKiller(t *testing.T, n *harness.Node) *killer {
	k := &killer{ending: make(chan struct{}), done: make(chan struct{})}
	t.Cleanup(k.stop)
	go func() {
		defer close(k.done)
		for k.pause(longestLife) {
			if err := k.replace(n); err != nil {
				t.Error(err)
				return
			}
			k.kills.Add(1)
		}
	}()
	return k
}

// replace ends the daemon, mostly by SIGKILL, and starts the next one.
func (k *killer) replace(n *harness.Node) error {
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience(startLimit))
	defer cancel()
	end := n.Daemon.Kill
	if rand.IntN(10) == 0 {
		end = n.Daemon.Terminate
	}
	if err := end(ctx); err != nil {
		return err
	}
	k.pause(longestGap)
	return n.Daemon.Start(ctx)
}

// pause waits for a random time; false: the end has come.
func (k *killer) pause(most time.Duration) bool {
	select {
	case <-time.After(rand.N(most)):
		return true
	case <-k.ending:
		return false
	}
}

func (k *killer) stop() {
	k.once.Do(func() { close(k.ending) })
	<-k.done
}

// insist makes a call until it succeeds or is refused for another reason than that there was no daemon to answer, or that the
// client itself has given up, which it does now and then.
func insist(t testing.TB, what string, call func(context.Context) error) error {
	t.Helper()
	for begun := time.Now(); ; time.Sleep(rand.N(100 * time.Millisecond)) {
		ctx, cancel := context.WithTimeout(context.Background(), harness.Patience(time.Minute))
		if rand.IntN(8) == 0 {
			ctx, cancel = context.WithTimeout(ctx, rand.N(longestWait))
		}
		err := call(ctx)
		cancel()
		if code := status.Code(err); code != codes.Unavailable && code != codes.DeadlineExceeded {
			return err
		}
		if time.Since(begun) > harness.Patience(patience) {
			t.Fatalf("%s never got through: %v", what, err)
		}
	}
}

// must is insist for what is never refused.
func must(t testing.TB, what string, call func(context.Context) error) {
	t.Helper()
	if err := insist(t, what, call); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}
