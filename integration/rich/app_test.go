package rich

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

func variable(key, value string) *runtime.KeyValue {
	return &runtime.KeyValue{Key: key, Value: []byte(value)}
}

// odd are arguments that a unit file, an inittab or a shell would change. CRI's strings are UTF-8, so they are too.
var odd = []string{"two  words", "", "%n%%", "$HOME ${x}", `"quoted" 'too' \`, "line\nline", "tab\t", ";|&", "#", "é\u200b"}

// What the application is given is what a plain container of the same request is given, to the byte.
func theApplicationIsRunAsAsked(t *testing.T, n *harness.Node, m machine, ref string) {
	ask := func(c *runtime.ContainerConfig) {
		c.Command = append(append(c.Command, "report", "say=reported", "--"), odd...)
		c.Envs = []*runtime.KeyValue{
			variable("PLAIN", "value"), variable("EQUALS", "a=b=c"), variable("EMPTY", ""), variable("ODD", strings.Join(odd, "\n")),
			variable("LONG", strings.Repeat("x", 60000)), variable("name.with-dots", "%i"),
		}
		c.WorkingDir = "/usr/local"
		c.Linux.SecurityContext.SupplementalGroups = []int64{1500, 77}
		c.Linux.SecurityContext.Capabilities = &runtime.Capability{DropCapabilities: []string{"NET_RAW"}, AddCapabilities: []string{"SYS_PTRACE"}}
	}
	plain := readReport(t, n.RunPod(t, pod("none")).Run(t, "app", probe(ref), ask))
	rich := readReport(t, n.RunPod(t, pod(m.mode)).Run(t, "app", probe(ref), ask))
	if rich.PID == 1 {
		t.Error("the application is pid 1")
	}
	if got, want := words(rich.Args), words(plain.Args); !slices.Equal(got, want) {
		t.Errorf("arguments\n%q, of a plain container\n%q", got, want)
	}
	got, want := hostless(words(rich.Env)), hostless(words(plain.Env))
	if !slices.Equal(got, want) {
		t.Errorf("environment\n%.2000q, of a plain container\n%.2000q", got, want)
	}
	if rich.UID != plain.UID || rich.GID != plain.GID || !slices.Equal(rich.Groups, plain.Groups) {
		t.Errorf("runs as %d:%d %v, a plain container as %d:%d %v", rich.UID, rich.GID, rich.Groups, plain.UID, plain.GID, plain.Groups)
	}
	if rich.Dir != "/usr/local" || rich.Umask != plain.Umask || rich.Limits != plain.Limits || rich.Stdin != plain.Stdin {
		t.Errorf("runs in %s with umask %o, stdin %s and limits\n%s\na plain container in %s with umask %o, stdin %s and limits\n%s",
			rich.Dir, rich.Umask, rich.Stdin, rich.Limits, plain.Dir, plain.Umask, plain.Stdin, plain.Limits)
	}
	for key, value := range plain.Status {
		if rich.Status[key] != value {
			t.Errorf("%s is %s, of a plain container %s", key, rich.Status[key], value)
		}
	}
}

// hostless sorts an environment and leaves out the pod's name.
func hostless(env []string) []string {
	env = slices.DeleteFunc(slices.Clone(env), func(v string) bool { return strings.HasPrefix(v, "HOSTNAME=") })
	slices.Sort(env)
	return env
}

// In a pod with a user namespace of its own the init may be root for an application that is not.
func theApplicationOfAnotherUser(t *testing.T, n *harness.Node, m machine, ref string) {
	c := n.RunPod(t, pod(m.mode), userns).Run(t, "app", probe(ref, "report", "say=reported", "wait"), func(c *runtime.ContainerConfig) {
		c.Linux.SecurityContext.RunAsUser, c.Linux.SecurityContext.RunAsGroup = &runtime.Int64Value{Value: 1000}, &runtime.Int64Value{Value: 1000}
		c.Linux.SecurityContext.SupplementalGroups = []int64{77}
		c.WorkingDir, c.Envs = "/usr/local", []*runtime.KeyValue{variable("ODD", "it's \"odd\" $x")}
	})
	r := readReport(t, c)
	if r.UID != 1000 || r.GID != 1000 || !slices.Contains(r.Groups, 77) || strings.Trim(r.Status["CapEff"], "0") != "" {
		t.Errorf("runs as %d:%d %v with capabilities %s", r.UID, r.GID, r.Groups, r.Status["CapEff"])
	}
	if got := c.Exec(t, "stat", "-c", "%u", "/proc/1"); got != "0\n" {
		t.Errorf("pid 1 is user %s", got)
	}
	// What is run in the container is run as the application, not as the init.
	if got := c.Exec(t, "sh", "-c", `echo "$(id -u) $(id -g) $(id -G) $(pwd) $ODD"; grep CapEff /proc/self/status`); got != "1000 1000 1000 77 1500 /usr/local it's \"odd\" $x\nCapEff:\t0000000000000000\n" && got != "1000 1000 1000 77 /usr/local it's \"odd\" $x\nCapEff:\t0000000000000000\n" {
		t.Errorf("exec has %q", got)
	}
	c.Stop(t, 90)
}

func streamsStayApart(t *testing.T, n *harness.Node, m machine, ref string) {
	long := strings.Repeat("long ", 10000)
	c := n.RunPod(t, pod(m.mode)).Run(t, "app", probe(ref, "say=out 1", "err=err 1", "say="+long, "err=err 2", "say=out 2", "exit=0"))
	c.Ended(t)
	var out, err strings.Builder
	for _, l := range harness.ReadLog(t, c.LogFile()) {
		b := &out
		if l.Stream == "stderr" {
			b = &err
		}
		b.WriteString(l.Text)
		if l.Tag == "F" {
			b.WriteByte('\n')
		}
	}
	// Nothing else is in the log: what pid 1 and the services print goes elsewhere.
	if want := "out 1\n" + long + "\nout 2\n"; out.String() != want || err.String() != "err 1\nerr 2\n" {
		t.Errorf("stdout is %.100q (%d bytes), stderr %q", out.String(), out.Len(), err.String())
	}
}

func theExitCodeIsTheApplications(t *testing.T, n *harness.Node, m machine, ref string) {
	for name, want := range map[string]struct {
		action, reason string
		code           int32
	}{
		"zero": {"exit=0", "Completed", 0}, "seven": {"exit=7", "Error", 7}, "all bits": {"exit=255", "Error", 255},
		"killed": {"kill=9", "Error", 137}, "terminated": {"kill=15", "Error", 143}, "out of memory": {"grow", "OOMKilled", 137},
	} {
		t.Run(name, func(t *testing.T) {
			p := n.RunPod(t, pod(m.mode, "shutdown-timeout", "5m"))
			c := p.Run(t, "app", probe(ref, "say=up", want.action), func(c *runtime.ContainerConfig) {
				c.Linux.Resources.MemoryLimitInBytes, c.Linux.Resources.MemorySwapLimitInBytes = 256<<20, 256<<20
			})
			c.AwaitLine(t, boot, "up")
			begin := time.Now()
			_, code := c.Ended(t)
			if s := c.Status(t); code != want.code || s.Reason != want.reason {
				t.Errorf("code %d, reason %s, %s", code, s.Reason, s.Message)
			}
			if took := time.Since(begin); want.action != "grow" && took > harness.Patience(harness.LongEnough) {
				t.Errorf("the container ended %s after its application", took)
			}
			if s := p.Status(t); s.State != runtime.PodSandboxState_SANDBOX_READY {
				t.Errorf("the sandbox is %s", s.State)
			}
		})
	}
	t.Run("no such program", func(t *testing.T) {
		p := n.RunPod(t, pod(m.mode))
		n.Pull(t, ref)
		id, err := p.TryCreate(harness.Context(t), p.ContainerConfig("app", image(ref, "/no/such/program")))
		if err == nil {
			_, err = n.Daemon.Runtime.StartContainer(harness.Context(t), &runtime.StartContainerRequest{ContainerId: id})
		}
		if err != nil {
			if !strings.Contains(err.Error(), "/no/such/program") {
				t.Errorf("error is %v", err)
			}
			return
		}
		c := &harness.Container{ID: id, Config: p.ContainerConfig("app"), Pod: p}
		if _, code := c.Ended(t); code != 127 && code != 128 {
			t.Errorf("code %d", code)
		}
		if s := c.Status(t); !strings.Contains(s.Message, "/no/such/program") {
			t.Errorf("the message %q does not name the program", s.Message)
		}
	})
}

// A crash loop inside can never look healthy outside: restarts are bounded, and the last code is the container's.
func restartsInside(t *testing.T, n *harness.Node, m machine, ref string) {
	for name, test := range map[string]struct {
		annotations []string
		action      string
		runs        int
		code        int32
	}{
		"no":                    {nil, "exit=3", 1, 3},
		"on failure, until 2":   {[]string{"restart", "on-failure", "restart-limit", "2", "restart-interval", "50ms"}, "exit=3", 3, 3},
		"on failure, by signal": {[]string{"restart", "on-failure", "restart-limit", "1", "restart-interval", "50ms"}, "kill=9", 2, 137},
		"on failure, success":   {[]string{"restart", "on-failure", "restart-limit", "2", "restart-interval", "50ms"}, "exit=0", 1, 0},
		"always, until 3":       {[]string{"restart", "always", "restart-limit", "3", "restart-interval", "50ms"}, "exit=0", 4, 0},
	} {
		t.Run(name, func(t *testing.T) {
			c := n.RunPod(t, pod(m.mode, test.annotations...)).Run(t, "app", probe(ref, "say=run", test.action))
			text, code := c.Ended(t)
			if got := strings.Count(text, "run\n"); got != test.runs || code != test.code {
				t.Errorf("%d runs, code %d, log %q", got, code, text)
			}
			if got, want := info(t, c), fmt.Sprintf(`"restarts":%d,`, test.runs-1); !strings.Contains(got, want) {
				t.Errorf("the verbose status has no %s: %s", want, got)
			}
		})
	}
	t.Run("a stop ends it for good", func(t *testing.T) {
		c := n.RunPod(t, pod(m.mode, "restart", "always", "restart-interval", "50ms")).Run(t, "app", probe(ref, "wait", "exit=4"))
		c.AwaitLine(t, boot, "waiting")
		c.Stop(t, 90)
		if text, code := c.Ended(t); code != 4 || strings.Count(text, "waiting") != 1 {
			t.Errorf("code %d, log %q", code, text)
		}
	})
}

// The stop signal reaches the application before the init: it has its grace while the services still run. One that is made
// for an init is not the application's.
func theStopSignalIsTheApplications(t *testing.T, n *harness.Node, m machine, ref string) {
	for asked, signal := range map[string]string{"": "15", "SIGUSR1": "10", "SIGRTMIN+3": "15", "SIGPWR": "15"} {
		if asked != "" {
			ref = push(t, n, m.image, strings.ToLower(strings.ReplaceAll(asked, "+", "-")), func(c *v1.ConfigFile) { c.Config.StopSignal = asked })
		}
		c := n.RunPod(t, pod(m.mode, "shutdown-timeout", "5m")).Run(t, "app", probe(ref, "wait", "sleep=300ms", "say=leaving", "exit=6"))
		c.AwaitLine(t, boot, "waiting")
		begin := time.Now()
		c.Stop(t, 90)
		text, code := c.Ended(t)
		if code != 6 || !strings.Contains(text, "asked "+signal+"\nleaving\n") {
			t.Errorf("STOPSIGNAL %q: code %d, log %q", asked, code, text)
		}
		if took := time.Since(begin); took > harness.Patience(harness.LongEnough) {
			t.Errorf("STOPSIGNAL %q: the stop took %s", asked, took)
		}
	}
}

// Whoever ignores everything is killed at the end of the grace, with what it has left behind.
func theDeafAreKilled(t *testing.T, n *harness.Node, m machine, ref string) {
	c := n.RunPod(t, pod(m.mode, "shutdown-timeout", "2s")).Run(t, "app", probe(ref, "deaf", "leave=5", "say=up", "sleep=24h"))
	c.AwaitLine(t, boot, "up")
	begin := time.Now()
	c.Stop(t, 1)
	if _, code := c.Ended(t); code != 137 {
		t.Errorf("code %d", code)
	}
	if took := time.Since(begin); took > harness.Patience(harness.LongEnough) {
		t.Errorf("the stop took %s", took)
	}
	if left, err := n.Processes(); err != nil || len(left) > 0 {
		t.Errorf("EXITED is reported while these run: %v %v", left, err)
	}
}

func standardInput(t *testing.T, n *harness.Node, m machine, ref string) {
	c := n.RunPod(t, pod(m.mode)).Run(t, "app", probe(ref, "cat", "exit=0"))
	if text, code := c.Ended(t); code != 0 || text != "end of stdin\n" {
		t.Errorf("without one: code %d, log %q", code, text)
	}
}

// lift tries to mount the hierarchy anew and to write to all limits that are seen, also from further namespaces: the kernel
// protects what is the root of the writer's own cgroup namespace, and nothing above it.
const lift = `
export all='for f in $(find /sys/fs/cgroup /tmp/cg -type f | grep -E "/(memory|pids|cpu|cpuset)[.][a-z_.]*$"); do for v in max -1 0-1024 536870912; do echo $v >$f; done; done'
mkdir -p /tmp/cg
exec 2>/dev/null
mount -t cgroup2 none /tmp/cg && echo mounted
eval "$all"
for more in "unshare -C" "unshare -UrCm"; do
	$more sh -c 'eval "$all"; mount -t cgroup2 none /tmp/cg && mkdir /tmp/cg/x && echo $$ >/tmp/cg/x/cgroup.procs && unshare -UrC sh -c "$all"'
done
true`

// Memory, pids and CPU of the whole tree are limited, and root inside cannot lift that.
func limitsHoldForTheWholeTree(t *testing.T, n *harness.Node, m machine, ref string) {
	for name, edits := range map[string][]func(*runtime.PodSandboxConfig){"": nil, "in a user namespace": {userns}} {
		t.Run(name, func(t *testing.T) { limitsHold(t, n.RunPod(t, append(edits, pod(m.mode))...), ref) })
	}
}

func limitsHold(t *testing.T, p *harness.Pod, ref string) {
	n, v2 := p.Node, onV2(t)
	c := p.Run(t, "app", probe(ref, "wait"), func(c *runtime.ContainerConfig) {
		r := c.Linux.Resources
		r.MemoryLimitInBytes, r.MemorySwapLimitInBytes, r.CpuQuota, r.CpuPeriod = 200<<20, 200<<20, 150000, 100000
		if v2 {
			// With the last one an init that makes no cgroups may have them made.
			r.Unified = map[string]string{"pids.max": "300", "memory.high": "400000000", "memory.oom.group": "1"}
		}
	})
	c.AwaitLine(t, boot, "waiting")
	before := limits(t, n, c)
	if _, out := exec(t, c, "sh", "-c", lift); strings.Contains(out, "mounted") {
		t.Errorf("a cgroup hierarchy could be mounted")
	}
	if after := limits(t, n, c); !maps.Equal(after, before) {
		t.Errorf("root inside has changed the limits from %v to %v", before, after)
	}
	// What is not the application's is limited as well.
	r, err := n.Daemon.Runtime.ExecSync(harness.Context(t), &runtime.ExecSyncRequest{ContainerId: c.ID, Cmd: []string{"probe", "grow"}, Timeout: 50})
	if err != nil || r.ExitCode != 137 {
		t.Errorf("more than the limit was to be refused: code %d, %v", r.GetExitCode(), err)
	}
}

// limits gives those of a container, by file, as the node sees them.
func limits(t *testing.T, n *harness.Node, c *harness.Container) map[string]string {
	t.Helper()
	dirs, err := n.Cgroups()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, dir := range dirs {
		if !strings.Contains(filepath.Base(dir), c.ID) {
			continue
		}
		for _, name := range []string{
			"memory.max", "memory.high", "memory.swap.max", "pids.max", "cpu.max", "cpu.weight",
			"memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "cpu.cfs_quota_us", "cpu.shares", "cpuset.cpus",
		} {
			if b, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
				found[filepath.Join(dir, name)] = strings.TrimSpace(string(b))
			}
		}
	}
	if !slices.Contains(slices.Collect(maps.Values(found)), "209715200") {
		t.Fatalf("the container has no limit of memory: %v", found)
	}
	return found
}

func podSecurityHolds(t *testing.T, n *harness.Node, m machine, ref string) {
	restricted := func(c *runtime.ContainerConfig) {
		c.Linux.SecurityContext.RunAsUser = &runtime.Int64Value{Value: 1000}
		c.Linux.SecurityContext.NoNewPrivs = true
		c.Linux.SecurityContext.Capabilities = &runtime.Capability{DropCapabilities: []string{"ALL"}}
		c.Linux.SecurityContext.Seccomp = &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_RuntimeDefault}
	}
	baseline := func(c *runtime.ContainerConfig) {
		c.Linux.SecurityContext.Seccomp = &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_RuntimeDefault}
	}
	p := n.RunPod(t, pod(m.mode))
	refused(t, p, codes.PermissionDenied, p.ContainerConfig("restricted", probe(ref, "exit=0"), restricted), prefix+"mode", "user 1000", "hostUsers")
	refused(t, p, codes.PermissionDenied, p.ContainerConfig("no-new-privs", probe(ref, "exit=0"), func(c *runtime.ContainerConfig) {
		c.Linux.SecurityContext.NoNewPrivs = true
	}), prefix+"mode", "no new privileges")
	if text, code := p.RunToEnd(t, "baseline", probe(ref, "say=up", "exit=5"), baseline); text != "up\n" || code != 5 {
		t.Errorf("baseline: code %d, log %q", code, text)
	}
}
