package rich

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
	"github.com/cri-pouch/cri-pouch/integration/lab"
	"github.com/cri-pouch/cri-pouch/internal/hookrun"
)

// hookNode is a node with a folder of hooks of its own, which grants something to pods of the namespace shop.
type hookNode struct {
	*harness.Node
	dir string // where the programs of its hooks are and what they write
}

// What must hold of hooks whatever the init is. The tests of one machine share a node: its image is unpacked once.
func TestHooksOfEveryInit(t *testing.T) {
	tests := []struct {
		name string
		test func(t *testing.T, n *hookNode, m hookMachine, ref string)
	}{
		{"they run one after the other", hooksRunOneAfterTheOther},
		{"the first failure that counts ends the start", theFirstFailureThatCountsEndsTheStart},
		{"a successor waits and is told of the upgrade", aSuccessorWaitsAndIsToldOfTheUpgrade},
		{"more than the container has is granted", moreThanTheContainerHasIsGranted},
		{"a stop ends prestart hooks", aStopEndsPrestartHooks},
		{"the daemon dies around them", theDaemonDiesAroundHooks},
		{"the node's see the container and its state", theNodesHooksSeeTheContainer},
		{"the node's fail or are late", theNodesHooksFailOrAreLate},
		{"the shim dies before or in them", theShimDiesBeforeOrInHooks}, // it is the last one: the shim is all containers'
	}
	for _, m := range hookMachines {
		t.Run(m.name(), func(t *testing.T) {
			t.Parallel()
			base(t, m.image)
			n := startHookNode(t)
			busybox, err := os.ReadFile(lab.Busybox)
			if err != nil {
				t.Fatal(err)
			}
			m.files = append(slices.Clone(m.files), lab.File{Name: "usr/local/bin/busybox", Mode: 0o755, Content: busybox})
			ref := push(t, n.Node, m.image, "hooks", nil, m.files...)
			for _, test := range tests {
				t.Run(test.name, func(t *testing.T) { test.test(t, n, m, ref) })
			}
		})
	}
}

// storyIn gives what hooks have written to the file story of a folder.
func storyIn(t testing.TB, dir string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "story"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(b)
}

func awaitStory(t testing.TB, dir, end string) {
	t.Helper()
	harness.Eventually(t, "hooks have written "+end, func() bool { return strings.HasSuffix(storyIn(t, dir), end) })
}

func put(t testing.TB, dir, name string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// tryStart starts a container and gives the daemon's answer.
func tryStart(t testing.TB, c *harness.Container) error {
	t.Helper()
	_, err := c.Pod.Node.Daemon.Runtime.StartContainer(harness.Context(t), &runtime.StartContainerRequest{ContainerId: c.ID})
	return err
}

// wantOutcomes compares what became of the hooks of the pod, or of the node, and gives them.
func wantOutcomes(t testing.TB, results []hookrun.Result, want ...string) []hookrun.Result {
	t.Helper()
	if got := harness.Outcomes(results); !slices.Equal(got, want) {
		t.Fatalf("%q, want %q: %+v", got, want, results)
	}
	return results
}

// A hook that fails, is late or prints a GiB changes nothing for those behind it, before and after the init.
func hooksRunOneAfterTheOther(t *testing.T, n *hookNode, m hookMachine, ref string) {
	dir := t.TempDir()
	p := n.RunPod(t, pod(m.mode),
		harness.Hooks(t, hookrun.Prestart,
			harness.ShellHook("first", "echo first; echo of all >&2; echo first >>/witness/story", "log", true, "timeout", "5s"),
			harness.ShellHook("ignored", "echo ignored >>/witness/story; exit 3", "onFailure", "ignore", "timeout", "5s"),
			harness.ShellHook("loud", harness.Gigabyte, "timeout", "75s")),
		harness.Hooks(t, hookrun.Poststop,
			harness.ShellHook("failing", "echo failing >>/witness/story; echo why >&2; exit 4", "timeout", "5s"),
			harness.StubbornHook("slow", dir, "timeout", "5s"),
			harness.ShellHook("last", "echo last; echo last >>/witness/story", "log", true, "timeout", "20s")))
	c := p.Run(t, "app", probe(ref, "say=up", "exit=5"), witnessed(dir))
	c.Ended(t)
	r, s := wantOutcomes(t, c.Told(t).Hooks, "prestart first succeeded", "prestart ignored failed", "prestart loud succeeded",
		"poststop failing failed", "poststop slow timeout", "poststop last succeeded"), c.Status(t)
	if got := storyIn(t, dir); got != "first\nignored\nfailing\nlast\n" {
		t.Errorf("the order is %q", got)
	}
	if got := c.LogText(t); got != "[hook first] first\n[hook first] of all\nup\n[hook last] last\n" {
		t.Errorf("the log is %q", got)
	}
	if s.ExitCode != 5 || s.Reason != "Error" {
		t.Errorf("the end is %v", s)
	}
	for _, part := range []string{`prestart hook "ignored" failed with exit code 3`, `poststop hook "failing" failed with exit code 4: why`, `poststop hook "slow" timed out after 5s: begun`} {
		if !strings.Contains(s.Message, part) {
			t.Errorf("the message is %q, without %q", s.Message, part)
		}
	}
	if tail := r[2].Output; len(tail) > hookrun.OutputMax || !strings.HasSuffix(tail, "\nthe end\n") {
		t.Errorf("of a GiB %d bytes are kept, which end with %q", len(tail), tail[max(len(tail)-20, 0):])
	}
	if most := n.ShimMemory(t); most > 256<<20 {
		t.Errorf("the shim has taken %d MiB", most>>20)
	}
	if left := harness.Marked(t, dir); len(left) > 0 {
		t.Errorf("processes of a hook that was late go on: %v", left)
	}
}

// The init never runs: a hook outlives its time, with daemons that ignore what asks them to end, and all of them are gone when
// the start is answered.
func theFirstFailureThatCountsEndsTheStart(t *testing.T, n *hookNode, m hookMachine, ref string) {
	dir := t.TempDir()
	p := n.RunPod(t, pod(m.mode),
		harness.Hooks(t, hookrun.Prestart,
			harness.ShellHook("ignored", "exit 3", "onFailure", "ignore"),
			harness.StubbornHook("slow", dir, "timeout", "5s"),
			harness.ShellHook("never", "touch /witness/never")),
		harness.Hooks(t, hookrun.Poststop, harness.ShellHook("clean", "touch /witness/cleaned")))
	c := p.Create(t, "app", probe(ref, "mark=/witness/ran"), witnessed(dir))
	begin := time.Now()
	failed(t, tryStart(t, c), codes.Aborted, `prestart hook "slow" timed out after 5s: begun`)
	if took := time.Since(begin); took > harness.Patience(harness.LongEnough) {
		t.Errorf("the start took %s", took)
	}
	if left := harness.Marked(t, dir); len(left) > 0 {
		t.Errorf("processes of the hook go on: %v", left)
	}
	if left, err := n.Processes(); err != nil || len(left) > 0 {
		t.Errorf("of the failed start run %v, %v", left, err)
	}
	wantOutcomes(t, c.Told(t).Hooks, "prestart ignored failed", "prestart slow timeout", "prestart never skipped")
	if s := c.Status(t); s.ExitCode != 128 || s.Reason != "StartError" || !strings.Contains(s.Message, `"ignored"`) || !strings.Contains(s.Message, `"slow"`) {
		t.Errorf("the container is %v", s)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("what must not have run made %v, %v", left, err)
	}
}

// A successor that is started while its predecessor's poststop hook runs comes after it, and its prestart hook knows both
// images. Whoever stops the pod waits for the hook too.
func aSuccessorWaitsAndIsToldOfTheUpgrade(t *testing.T, n *hookNode, m hookMachine, ref string) {
	next, dir := push(t, n.Node, m.image, "hooks-2", nil, append(m.files, versionFile("two"))...), t.TempDir()
	p := n.RunPod(t, pod(m.mode),
		harness.Hooks(t, hookrun.Prestart, harness.ShellHook("tell", `echo start "$POUCH_ATTEMPT ${POUCH_UPGRADE-no} ${POUCH_OLD_IMAGE-none} ${POUCH_NEW_IMAGE-none}" >>/witness/story`)),
		harness.Hooks(t, hookrun.Poststop, harness.ShellHook("clean", `echo clean "$POUCH_ATTEMPT ${POUCH_UPGRADE-no}" >>/witness/story; sleep 1; echo cleaned >>/witness/story`)))
	first := p.Run(t, "app", probe(ref, "wait", "exit=0"), witnessed(dir), attempt(0, "a"))
	first.AwaitLine(t, boot, "waiting")
	second := p.Create(t, "app", probe(next, "wait", "exit=0"), witnessed(dir), attempt(1, "b"))
	stopped := make(chan error, 1)
	go func() {
		_, err := n.Daemon.Runtime.StopContainer(harness.Context(t), &runtime.StopContainerRequest{ContainerId: first.ID, Timeout: 25})
		stopped <- err
	}()
	awaitStory(t, dir, "clean 0 no\n")
	second.Start(t)
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	begun := "start 0 no none none\nclean 0 no\ncleaned\nstart 1 1 " + ref + " " + next + "\n"
	if got := storyIn(t, dir); got != begun {
		t.Errorf("after the upgrade the story is\n%swant\n%s", got, begun)
	}
	second.AwaitLine(t, boot, "waiting")
	if _, err := n.Daemon.Runtime.StopPodSandbox(harness.Context(t), &runtime.StopPodSandboxRequest{PodSandboxId: p.ID}); err != nil {
		t.Error(err)
	}
	if got := storyIn(t, dir); got != begun+"clean 1 no\ncleaned\n" {
		t.Errorf("after the pod's stop the story is\n%s", got)
	}
}

// Where the administrator allows it a hook sets a route in the pod's network, as root, around an application that is not.
func moreThanTheContainerHasIsGranted(t *testing.T, n *hookNode, m hookMachine, ref string) {
	const route = "busybox ip route "
	hooks := func(stage hookrun.Stage, script string, pairs ...any) func(*runtime.PodSandboxConfig) {
		return harness.Hooks(t, stage, harness.ShellHook("route", route+script, append(pairs, "capabilities", []string{"NET_ADMIN"})...))
	}
	before := func(pairs ...any) func(*runtime.PodSandboxConfig) {
		return hooks(hookrun.Prestart, "add 192.0.2.0/24 dev eth0 && id -u", pairs...)
	}
	user := func(c *runtime.ContainerConfig) {
		c.Linux.SecurityContext.RunAsUser, c.Linux.SecurityContext.RunAsGroup = &runtime.Int64Value{Value: 1000}, &runtime.Int64Value{Value: 1000}
	}
	for name, pairs := range map[string][]any{"NET_ADMIN": nil, "uid:0": {"user", "0"}} {
		closed := n.RunPod(t, pod(m.mode), userns, before(pairs...))
		refused(t, closed, codes.PermissionDenied, closed.ContainerConfig("app", probe(ref, "exit=0"), user),
			"hooks.cri-pouch.io/prestart", `hook "route"`, name+" in hooks.grants", `namespace "lab"`)
	}
	open := n.RunPod(t, pod(m.mode), userns, before("user", "0"), hooks(hookrun.Poststop, "del 192.0.2.0/24 && id -u", "user", "0"),
		func(c *runtime.PodSandboxConfig) { c.Metadata.Namespace = "shop" })
	c := open.Run(t, "app", probe(ref, "say=up", "wait", "exit=0"), user)
	c.AwaitLine(t, boot, "waiting")
	if _, out := exec(t, c, "busybox", "ip", "route"); !strings.Contains(out, "192.0.2.0/24 dev eth0") {
		t.Errorf("the routes are %s", out)
	}
	if code, out := exec(t, c, "busybox", "ip", "route", "del", "192.0.2.0/24"); code == 0 {
		t.Errorf("the application can change routes itself: %s", out)
	}
	c.Stop(t, 90)
	for _, r := range wantOutcomes(t, c.Told(t).Hooks, "prestart route succeeded", "poststop route succeeded") {
		if r.Output != "0\n" {
			t.Errorf("the %s hook says %q", r.Stage, r.Output)
		}
	}
}

// Whoever does not want a container any more does not wait for its prestart hooks, and its init never runs.
func aStopEndsPrestartHooks(t *testing.T, n *hookNode, m hookMachine, ref string) {
	for name, stop := range map[string]func(ctx context.Context, c *harness.Container) error{
		"of the container": func(ctx context.Context, c *harness.Container) error {
			_, err := n.Daemon.Runtime.StopContainer(ctx, &runtime.StopContainerRequest{ContainerId: c.ID, Timeout: 30})
			return err
		},
		"of the pod": func(ctx context.Context, c *harness.Container) error {
			_, err := n.Daemon.Runtime.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: c.Pod.ID})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			p := n.RunPod(t, pod(m.mode),
				harness.Hooks(t, hookrun.Prestart, harness.StubbornHook("slow", dir, "timeout", "80s", "onFailure", "ignore"), harness.ShellHook("next", "touch /witness/next", "timeout", "5s")),
				harness.Hooks(t, hookrun.Poststop, harness.ShellHook("clean", "touch /witness/cleaned")))
			c := p.Create(t, "app", probe(ref, "mark=/witness/ran"), witnessed(dir))
			answer := make(chan error, 1)
			go func() { answer <- tryStart(t, c) }()
			harness.Eventually(t, "the hook runs", func() bool { return len(harness.Marked(t, dir)) >= 7 })
			begin := time.Now()
			if err := stop(harness.Context(t), c); err != nil {
				t.Error(err)
			}
			if took := time.Since(begin); took > harness.Patience(harness.LongEnough) {
				t.Errorf("it took %s", took)
			}
			failed(t, <-answer, codes.Aborted, "stopped before its program ran")
			if left := harness.Marked(t, dir); len(left) > 0 {
				t.Errorf("processes of the hook go on: %v", left)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("what must not have run made %v, %v", left, err)
			}
		})
	}
}
