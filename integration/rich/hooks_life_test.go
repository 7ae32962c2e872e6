package rich

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
	"github.com/cri-pouch/cri-pouch/integration/lab"
	"github.com/cri-pouch/cri-pouch/internal/hookrun"
)

// hookMachine is an image whose services write into the file order of a mounted folder when they start, and half a second
// after they are told to stop.
type hookMachine struct {
	machine
	files    []lab.File
	services bool
	init     string // what pid 1 runs
}

var hookMachines = []hookMachine{
	{machine{"systemd", "systemd"}, service("witness.service", `[Unit]
ConditionPathExists=/witness
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'echo up >>/witness/order'
ExecStop=/bin/sh -c 'sleep 0.5; echo down >>/witness/order'
`), true, "systemd"},
	{machine{"sysvinit", "sbin-init"}, []lab.File{
		{Name: "etc/init.d/witness", Mode: 0o755, Content: []byte("#!/bin/sh\n### BEGIN INIT INFO\n# Provides: witness\n### END INIT INFO\n" +
			"[ -d /witness ] || exit 0\n[ \"$1\" = start ] && echo up >>/witness/order\n[ \"$1\" = stop ] && sleep 0.5 && echo down >>/witness/order\n:\n")},
		{Name: "etc/init.d/.wh..depend.boot"}, {Name: "etc/init.d/.wh..depend.start"}, {Name: "etc/init.d/.wh..depend.stop"},
		{Name: "etc/rc2.d/S01witness", Link: "../init.d/witness"}, {Name: "etc/rc0.d/K01witness", Link: "../init.d/witness"},
	}, true, "init"},
	{machine{"dumb-init", "dumb-init"}, nil, false, "dumb-init"},
}

// eachHooked runs a subtest for every one of hookMachines, each on a node of its own.
func eachHooked(t *testing.T, test func(t *testing.T, n *harness.Node, m hookMachine, ref string)) {
	for _, m := range hookMachines {
		t.Run(m.name(), func(t *testing.T) {
			t.Parallel()
			base(t, m.image)
			n := harness.Start(t)
			test(t, n, m, push(t, n, m.image, "hooks", nil, m.files...))
		})
	}
}

// hooked declares one hook of a stage that runs a script.
func hooked(t *testing.T, stage hookrun.Stage, name, script string) func(*runtime.PodSandboxConfig) {
	t.Helper()
	return harness.Hooks(t, stage, harness.ShellHook(name, script, "env", map[string]string{"HOOK": "hook's"}))
}

// hookResult gives what became of the only hook of a stage.
func hookResult(t *testing.T, c *harness.Container, stage hookrun.Stage) hookrun.Result {
	t.Helper()
	told := c.Told(t).Hooks
	at := slices.IndexFunc(told, func(r hookrun.Result) bool { return r.Stage == stage })
	if at < 0 {
		t.Fatalf("there is no result of a %s hook: %+v", stage, told)
	}
	return told[at]
}

// witnessed mounts a folder of the test's at /witness and bounds the memory.
func witnessed(dir string) func(*runtime.ContainerConfig) {
	return func(c *runtime.ContainerConfig) {
		c.Mounts = []*runtime.Mount{{HostPath: dir, ContainerPath: "/witness"}}
		c.Envs = []*runtime.KeyValue{variable("OWN", "it's \"own\" $HOME")}
		limitMemory(c, false)
	}
}

// The hook before pid 1 sees volume, address and routes; the one behind the end is told of the application's end, after all
// services have stopped and nothing of them runs, on the same root filesystem and volumes, once.
func TestHooksAroundEveryEnd(t *testing.T) {
	eachHooked(t, func(t *testing.T, n *harness.Node, m hookMachine, ref string) {
		for name, test := range map[string]struct {
			actions []string
			end     func(c *harness.Container)
			want    string
		}{
			"its end":       {[]string{"exit=7"}, nil, "7  Error 2"},
			"a signal":      {[]string{"kill=9"}, nil, "137 9 Error 2"},
			"out of memory": {[]string{"grow"}, nil, "137 9 OOMKilled 2"},
			"a stop":        {[]string{"wait", "exit=3"}, func(c *harness.Container) { c.Stop(t, 90) }, "3  Error 2"},
			"a kill":        {[]string{"wait", "exit=3"}, func(c *harness.Container) { c.Stop(t, 0) }, "137 9 Killed 2"},
		} {
			t.Run(name, func(t *testing.T) { hooksAroundOneEnd(t, n, m, ref, test.actions, test.end, test.want) })
		}
	})
}

func hooksAroundOneEnd(t *testing.T, n *harness.Node, m hookMachine, ref string, actions []string, end func(*harness.Container), want string) {
	const look = `grep -e '|--' /proc/net/fib_trie; sed -n 2p /proc/net/route; `
	dir := t.TempDir()
	p := n.RunPod(t, pod(m.mode),
		hooked(t, hookrun.Prestart, "before", `echo before >>/witness/order; echo "$OWN $HOOK $(id -u) $(pwd)"; echo "pid 1 is $(readlink /proc/1/exe)"; `+look),
		hooked(t, hookrun.Poststop, "after", `echo "$POUCH_EXIT_CODE $POUCH_SIGNAL $POUCH_REASON $POUCH_ATTEMPT"; echo "$OWN $HOOK $(pwd)"; cat /made; echo $POUCH_FINISHED_AT; `+look+
			`echo after >>/witness/order; i=0; until [ -e /witness/go ]; do sleep 0.05; i=$((i+1)); [ $i -lt 400 ] || exit 1; done`))
	app := `exec probe mark=/made mark=/witness/order say=up "$@"`
	if m.services {
		app = "until grep -q up /witness/order; do sleep 0.1; done; " + app
	}
	c := p.Run(t, "app", image(ref, append([]string{"sh", "-c", app, "app"}, actions...)...), witnessed(dir), func(c *runtime.ContainerConfig) { c.Metadata.Attempt, c.WorkingDir = 2, "/usr" })
	c.AwaitLine(t, boot, "up")
	if end != nil {
		c.AwaitLine(t, boot, "waiting") // it handles signals from then on
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if end != nil {
			end(c)
		}
	}()
	var order []string
	harness.Eventually(t, "the poststop hook runs", func() bool {
		b, _ := os.ReadFile(filepath.Join(dir, "order"))
		order = strings.Fields(strings.ReplaceAll(string(b), "marked by ", "app "))
		return slices.Contains(order, "after")
	})
	// Nothing but the hook runs (some shells are their own sleep, by /proc/self/exe), and the end is not told yet.
	left, err := n.Processes()
	foreign := func(process string) bool {
		_, comm, _ := strings.Cut(process, " ")
		return !slices.Contains([]string{"sh", "sleep", "hook", "exe"}, comm)
	}
	if err != nil || len(left) == 0 || len(left) > 3 || slices.ContainsFunc(left, foreign) {
		t.Errorf("beside the hook run %v, %v", left, err)
	}
	if s := c.Status(t); s.State != runtime.ContainerState_CONTAINER_RUNNING {
		t.Errorf("while the hook runs the container is %s", s.State)
	}
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	<-ended
	c.Ended(t)
	if order[0] != "before" || order[len(order)-1] != "after" || !slices.Contains(order, "app") {
		t.Errorf("the order is %q", order)
	}
	// A kill leaves the services no time.
	if stopped := order[len(order)-2] == "down"; m.services && !strings.Contains(want, "Killed") && !stopped {
		t.Errorf("the services have not been stopped before the hook: %q", order)
	}
	before, after, s := hookResult(t, c, hookrun.Prestart), hookResult(t, c, hookrun.Poststop), c.Status(t)
	if before.Outcome != hookrun.Succeeded || after.Outcome != hookrun.Succeeded {
		t.Fatalf("results are %+v, %+v", before, after)
	}
	if !strings.HasPrefix(before.Output, "it's \"own\" $HOME hook's 0 /usr\n") || strings.Contains(strings.SplitN(before.Output, "\n", 3)[1], m.init) {
		t.Errorf("before pid 1 is %s a hook sees %q", m.init, before.Output)
	}
	told := strings.Split(after.Output, "\n")
	if m.mode == "dumb-init" && strings.HasPrefix(want, "137 9 OOM") || m.mode == "dumb-init" && strings.HasPrefix(want, "137 9 Error") {
		want = strings.Replace(want, " 9 ", "  ", 1) // its own init passes the code on
	}
	if told[0] != want || told[1] != "it's \"own\" $HOME hook's /usr" || !strings.HasPrefix(told[2], "marked by ") {
		t.Errorf("the hook is told %q, want %q", told[:3], want)
	}
	for stage, output := range map[hookrun.Stage]string{hookrun.Prestart: before.Output, hookrun.Poststop: after.Output} {
		if !strings.Contains(output, p.IP(t)+"\n") || !strings.Contains(output, "eth0\t00000000\t") {
			t.Errorf("a %s hook does not see the address %s and a default route: %q", stage, p.IP(t), output)
		}
	}
	if at, err := time.Parse(time.RFC3339Nano, told[3]); err != nil || at.UnixNano() > s.FinishedAt || at.UnixNano() < s.StartedAt || after.StartedAt.UnixNano() < s.FinishedAt {
		t.Errorf("the application ended at %s, the container at %d, the hook began at %s (%v)", told[3], s.FinishedAt, after.StartedAt, err)
	}
	if b, _ := os.ReadFile(filepath.Join(dir, "order")); strings.Count(string(b), "after") != 1 || strings.Count(string(b), "before") != 1 {
		t.Errorf("hooks ran more than once: %q", b)
	}
}

// A prestart hook that fails keeps the init from running at all; the next attempt finds nothing of the first.
func TestAFailingPrestartHookKeepsTheInitFromRunning(t *testing.T) {
	eachHooked(t, func(t *testing.T, n *harness.Node, m hookMachine, ref string) {
		dir := t.TempDir()
		p := n.RunPod(t, pod(m.mode),
			hooked(t, hookrun.Prestart, "check", `[ ! -e /dirty ] || echo dirty; touch /dirty; echo one; echo two >&2; [ -e /witness/fixed ] || exit 7`),
			hooked(t, hookrun.Poststop, "clean", "echo cleaned >>/witness/order"))
		first := p.Create(t, "app", probe(ref, "mark=/witness/order", "wait", "exit=4"), witnessed(dir))
		_, err := n.Daemon.Runtime.StartContainer(harness.Context(t), &runtime.StartContainerRequest{ContainerId: first.ID})
		for _, part := range []string{`prestart hook "check"`, "exit code 7", "one", "two"} {
			if err == nil || status.Code(err) != codes.Aborted || !strings.Contains(err.Error(), part) {
				t.Errorf("the error is %v, without %q", err, part)
			}
		}
		if s := first.Status(t); s.State != runtime.ContainerState_CONTAINER_EXITED || s.ExitCode != 128 || s.Reason != "StartError" || !strings.Contains(s.Message, `"check"`) {
			t.Errorf("the container is %v", s)
		}
		if left, err := n.Processes(); err != nil || len(left) > 0 {
			t.Errorf("of the failed start run %v, %v", left, err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("of the failed start there are %v, %v", left, err)
		}
		if err := os.WriteFile(filepath.Join(dir, "fixed"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		next := p.Run(t, "app", probe(ref, "mark=/witness/order", "say=up", "wait", "exit=4"), witnessed(dir), attempt(1, "a"))
		next.AwaitLine(t, boot, "waiting")
		next.Stop(t, 90)
		if _, code := next.Ended(t); code != 4 {
			t.Errorf("code %d", code)
		}
		if r := hookResult(t, next, hookrun.Prestart); r.Outcome != hookrun.Succeeded || r.Output != "one\ntwo\n" {
			t.Errorf("the next attempt finds %+v", r)
		}
		if b, _ := os.ReadFile(filepath.Join(dir, "order")); strings.Count(string(b), "cleaned") != 1 || !strings.HasSuffix(string(b), "cleaned\n") {
			t.Errorf("the order is %q", b)
		}
		first.Remove(t)
	})
}

// Hooks are run as the application, where the init is another user.
func TestHooksOfAnotherUsersApplication(t *testing.T) {
	eachHooked(t, func(t *testing.T, n *harness.Node, m hookMachine, ref string) {
		const who = `echo "$(id -u) $(id -g) $OWN"; grep CapEff /proc/self/status`
		p := n.RunPod(t, pod(m.mode), userns, hooked(t, hookrun.Prestart, "before", who), hooked(t, hookrun.Poststop, "after", who))
		c := p.Run(t, "app", probe(ref, "say=up", "exit=5"), func(c *runtime.ContainerConfig) {
			c.Linux.SecurityContext.RunAsUser, c.Linux.SecurityContext.RunAsGroup = &runtime.Int64Value{Value: 1000}, &runtime.Int64Value{Value: 1000}
			c.Envs = []*runtime.KeyValue{variable("OWN", "own")}
		})
		c.AwaitLine(t, boot, "up")
		if _, code := c.Ended(t); code != 5 {
			t.Errorf("code %d", code)
		}
		for _, stage := range []hookrun.Stage{hookrun.Prestart, hookrun.Poststop} {
			if r := hookResult(t, c, stage); r.Output != "1000 1000 own\nCapEff:\t0000000000000000\n" {
				t.Errorf("%+v", r)
			}
		}
	})
}
