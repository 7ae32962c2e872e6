package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
	"github.com/cri-pouch/cri-pouch/integration/lab"
	"github.com/cri-pouch/cri-pouch/internal/hookrun"
)

// report is a poststop hook that prints what it is told.
const report = `echo "$POUCH_EXIT_CODE ${POUCH_SIGNAL-} $POUCH_REASON $POUCH_ATTEMPT"; echo "$POUCH_STARTED_AT"; echo "$POUCH_FINISHED_AT"`

// However a container ends, its poststop hook learns of it after its last process, on the same root filesystem, volumes and
// network, once.
func TestPoststopHooksAreToldHowTheContainerEnded(t *testing.T) {
	n := harness.Start(t)
	ref := pushBusybox(t, n, "hooks:init", func(*v1.ConfigFile) {}, lab.BusyboxInit()...)
	for _, mode := range richModes {
		for name, test := range map[string]struct {
			script string
			end    func(t *testing.T, c *harness.Container)
			want   string
		}{
			"well":            {"echo data >/made; exit 0", nil, "0  Completed 3"},
			"badly":           {"echo data >/made; exit 9", nil, "9  Error 3"},
			"killed":          {"trap '' TERM; echo data >/made; touch /witness/up; while :; do sleep 1; done", func(t *testing.T, c *harness.Container) { c.Stop(t, 0) }, "137 9 Killed 3"},
			"out of memory":   {"echo data >/made; tail /dev/zero", nil, "137 9 OOMKilled 3"},
			"when it is told": {"trap 'exit 4' TERM; echo data >/made; touch /witness/up; while :; do sleep 0.1; done", func(t *testing.T, c *harness.Container) { c.Stop(t, 90) }, "4  Error 3"},
		} {
			t.Run(mode+" "+name, func(t *testing.T) {
				dir := t.TempDir()
				p := n.RunPod(t, annotated(richMode, mode), hooks(t, poststopKey,
					shell("tell", report, "user", "0"),
					shell("look", `echo >>/witness/runs; cat /made; ip -o addr show eth0; ps | grep -c 'whil[e]'; cat /proc/self/cgroup; echo "$OWN"`)))
				c := p.Run(t, "app", image(ref, 3), witness(dir), harness.Sh(test.script), func(c *runtime.ContainerConfig) {
					c.Envs = []*runtime.KeyValue{{Key: "OWN", Value: []byte("own")}}
					c.Linux.Resources.MemoryLimitInBytes, c.Linux.Resources.MemorySwapLimitInBytes = 64<<20, 64<<20
				})
				if test.end != nil {
					harness.Eventually(t, "the program runs", func() bool { _, err := os.Stat(filepath.Join(dir, "up")); return err == nil })
					test.end(t, c)
				}
				c.Ended(t)
				r, s := hookResults(t, c), c.Status(t)
				if got, want := outcomes(r), []string{"poststop tell succeeded", "poststop look succeeded"}; !slices.Equal(got, want) {
					t.Fatalf("results are %+v", r)
				}
				told := strings.Split(r[0].Output, "\n")
				want := test.want
				if mode == "dumb-init" && name == "out of memory" { // its own init passes the code on, and is not the one that was killed
					want = strings.Replace(want, " 9 ", "  ", 1)
				}
				if told[0] != want {
					t.Errorf("the hook is told %q, want %q", told[0], want)
				}
				if at, err := time.Parse(time.RFC3339Nano, told[1]); err != nil || at.UnixNano() != s.StartedAt {
					t.Errorf("the hook is told %s, the status says %d", told[1], s.StartedAt)
				}
				// The application of a rich container ends before its init.
				if at, err := time.Parse(time.RFC3339Nano, told[2]); err != nil || at.UnixNano() > s.FinishedAt || mode != "sbin-init" && at.UnixNano() != s.FinishedAt || at.UnixNano() < s.StartedAt {
					t.Errorf("the hook is told %s, the status says %d", told[2], s.FinishedAt)
				}
				for _, want := range []string{"data\n", p.IP(t) + "/", "\n0\n", "\nown\n"} {
					if !strings.Contains(r[1].Output, want) {
						t.Errorf("the hook saw %q, no %q", r[1].Output, want)
					}
				}
				if b, err := os.ReadFile(filepath.Join(dir, "runs")); err != nil || string(b) != "\n" {
					t.Errorf("the hook ran %d times, %v", len(b), err)
				}
				if s.FinishedAt > r[0].StartedAt.UnixNano() {
					t.Errorf("the hook began at %s, the container ended at %d", r[0].StartedAt, s.FinishedAt)
				}
			})
		}
	}
}

// A failing poststop hook changes nothing about the end; the message says so.
func TestAFailingPoststopHookIsReported(t *testing.T) {
	n := harness.Start(t)
	p := n.RunPod(t, hooks(t, poststopKey, shell("first", "echo no >&2; exit 5"), shell("slow", "sleep 60", "timeout", "300ms"), shell("last", "true", "timeout", "5s")))
	c := p.Run(t, "app", harness.Sh("exit 0"))
	if _, code := c.Ended(t); code != 0 {
		t.Errorf("code %d", code)
	}
	s, r := c.Status(t), hookResults(t, c)
	if got, want := outcomes(r), []string{"poststop first failed", "poststop slow timeout", "poststop last succeeded"}; !slices.Equal(got, want) {
		t.Fatalf("results are %+v", r)
	}
	if want := `poststop hook "first" failed with exit code 5: no; poststop hook "slow" timed out after 3`; !strings.HasPrefix(s.Message, want) || s.Reason != "Completed" {
		t.Errorf("the end is %s, %q", s.Reason, s.Message)
	}
}

// Everything that ends a container waits for its poststop hooks, which no repeated stop disturbs.
func TestWhoEndsAContainerWaitsForItsHooks(t *testing.T) {
	n := harness.Start(t)
	for name, end := range map[string]func(ctx context.Context, c *harness.Container) error{
		"the container is stopped": func(ctx context.Context, c *harness.Container) error {
			_, err := n.Daemon.Runtime.StopContainer(ctx, &runtime.StopContainerRequest{ContainerId: c.ID, Timeout: 1})
			return err
		},
		"the container is removed": func(ctx context.Context, c *harness.Container) error {
			_, err := n.Daemon.Runtime.RemoveContainer(ctx, &runtime.RemoveContainerRequest{ContainerId: c.ID})
			return err
		},
		"the pod is stopped": func(ctx context.Context, c *harness.Container) error {
			_, err := n.Daemon.Runtime.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: c.Pod.ID})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			p := n.RunPod(t, hooks(t, poststopKey, shell("slow", "echo >>/witness/runs; sleep 3; ip -o addr show eth0 | grep -q inet && touch /witness/done")))
			c := p.Run(t, "app", witness(dir), harness.Sh("exec sleep 1000"))
			var calls sync.WaitGroup
			for i := range 3 { // the kubelet asks again when it has waited long enough
				calls.Go(func() {
					time.Sleep(time.Duration(i) * 200 * time.Millisecond)
					if err := end(harness.Context(t), c); err != nil {
						t.Error(err)
					}
				})
			}
			calls.Wait()
			if _, err := os.Stat(filepath.Join(dir, "done")); err != nil {
				t.Errorf("the hook was not waited for: %v", err)
			}
			if b, err := os.ReadFile(filepath.Join(dir, "runs")); err != nil || string(b) != "\n" {
				t.Errorf("the hook ran %d times, %v", len(b), err)
			}
		})
	}
}

// A successor's program starts after its predecessor's poststop hooks, also for a client that does not wait for the end.
func TestASuccessorStartsAfterItsPredecessorsHooks(t *testing.T) {
	n := harness.Start(t)
	dir := t.TempDir()
	p := n.RunPod(t, hooks(t, poststopKey, shell("clean", "echo clean $POUCH_ATTEMPT >>/witness/order; sleep 2; echo cleaned $POUCH_ATTEMPT >>/witness/order")))
	first := p.Run(t, "app", witness(dir), harness.Sh("exec sleep 1000"))
	second := p.Create(t, "app", witness(dir), image(harness.Busybox, 1), harness.Sh("echo program >>/witness/order; exec sleep 1000"))
	stopped := make(chan error, 1)
	go func() {
		_, err := n.Daemon.Runtime.StopContainer(harness.Context(t), &runtime.StopContainerRequest{ContainerId: first.ID})
		stopped <- err
	}()
	order := filepath.Join(dir, "order")
	harness.Eventually(t, "the hook runs", func() bool { _, err := os.Stat(order); return err == nil })
	second.Start(t)
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	harness.Eventually(t, "the successor runs", func() bool { b, _ := os.ReadFile(order); return strings.Contains(string(b), "program") })
	if b, _ := os.ReadFile(order); string(b) != "clean 0\ncleaned 0\nprogram\n" {
		t.Errorf("the order was %q", b)
	}
}

// Hooks of a pod whose containers share their process IDs are in that namespace too.
func TestHooksInASharedPIDNamespace(t *testing.T) {
	n := harness.Start(t)
	p := n.RunPod(t, func(c *runtime.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions.Pid = runtime.NamespaceMode_POD
	}, hooks(t, prestartKey+".app", shell("look", "ps -o args | grep -c 'sleep [9]87'")), hooks(t, poststopKey+".app", shell("look", "ps -o args | grep -c 'sleep [9]87'")))
	p.Run(t, "other", harness.Command("sleep", "987"))
	c := p.Run(t, "app", harness.Sh("exit 0"))
	c.Ended(t)
	if r := hookResults(t, c); len(r) != 2 || r[0].Output != "1\n" || r[1].Output != "1\n" {
		t.Errorf("results are %+v", r)
	}
}

// A hundred containers with hooks at once, each with its own results, each answered within the time that the kubelet gives a start (harness.Context).
func TestAHundredContainersWithHooks(t *testing.T) {
	n := harness.Start(t)
	n.Pull(t, harness.Busybox)
	const pods, each = 10, 10
	var work sync.WaitGroup
	for range pods {
		p := n.RunPod(t, hooks(t, prestartKey, shell("a", "echo $ME")), hooks(t, poststopKey, shell("b", "echo $ME $POUCH_EXIT_CODE")))
		for i := range each {
			work.Go(func() {
				name, code := fmt.Sprintf("c%d", i), strconv.Itoa(i)
				id, err := p.TryCreate(harness.Context(t), p.ContainerConfig(name, harness.Sh("exit "+code), func(c *runtime.ContainerConfig) {
					c.Envs = []*runtime.KeyValue{{Key: "ME", Value: []byte(p.ID + name)}}
				}))
				if err != nil {
					t.Errorf("create %s: %v", name, err)
					return
				}
				c := &harness.Container{ID: id, Config: p.ContainerConfig(name), Pod: p}
				if err := tryStart(t, c); err != nil {
					t.Errorf("start %s: %v", name, err)
					return
				}
				if _, got := c.Ended(t); got != int32(i) {
					t.Errorf("%s ended with %d", name, got)
				}
				r := hookResults(t, c)
				if len(r) != 2 || r[0].Output != p.ID+name+"\n" || r[1].Output != p.ID+name+" "+code+"\n" || r[0].Outcome != hookrun.Succeeded || r[1].Outcome != hookrun.Succeeded {
					t.Errorf("%s: %+v", name, r)
				}
			})
		}
	}
	work.Wait()
	if left, err := n.Processes(); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if left, err := n.Cgroups(); err != nil || slices.ContainsFunc(left, func(dir string) bool { return strings.Contains(dir, "poststop") || strings.HasSuffix(dir, "/hook") }) {
		t.Errorf("cgroups of hooks are left: %v, %v", left, err)
	}
}
