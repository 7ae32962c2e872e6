package integration

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
	"github.com/cri-pouch/cri-pouch/integration/harness"
	"github.com/cri-pouch/cri-pouch/integration/lab"
	"github.com/cri-pouch/cri-pouch/internal/hookrun"
)

// sealedNode is a node with a pouch-init of its own, which nobody misses when a test has
// overwritten it. Its state folder is on a tmpfs, as it is on real nodes.
type sealedNode struct {
	*harness.Node
	binary string
	before string // what the binary is
	probe  string
}

func startSealed(t *testing.T, config string) *sealedNode {
	t.Helper()
	top := harness.Top(t)
	s := &sealedNode{binary: filepath.Join(t.TempDir(), "pouch-init"), probe: filepath.Join(top, "build/rich/probe")}
	if _, err := os.Stat(s.probe); err != nil {
		t.Skipf("%s is missing: make build-tests", s.probe)
	}
	program, err := os.ReadFile(filepath.Join(top, "bin/pouch-init"))
	if err == nil {
		err = os.WriteFile(s.binary, program, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.Node = harness.Prepare(t, harness.Config("[runtime]\ninit_binary = '"+s.binary+"'\n"+config))
	if err = os.Mkdir(s.StateDir(), 0o711); err == nil {
		err = unix.Mount("tmpfs", s.StateDir(), "tmpfs", 0, "mode=711,size=64m")
	}
	if err != nil {
		t.Fatal(err)
	}
	s.StartDaemon(t)
	s.before = s.looksLike(t)
	return s
}

// looksLike says what everybody's files are: content, mode, time, and the bounds of the state
// folder.
func (s *sealedNode) looksLike(t *testing.T) string {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(s.StateDir(), &st); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("state folder of %d blocks, flags %x", st.Blocks, st.Flags)
	for _, file := range []string{s.binary, filepath.Join(s.StateDir(), "pouch-init")} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		text += fmt.Sprintf("\n%s %x %v %v", file, sha256.Sum256(b), info.Mode(), info.ModTime())
	}
	return text
}

// untouched fails the test if an attack has come through, whatever its author noticed of it.
func (s *sealedNode) untouched(t *testing.T, said string) {
	t.Helper()
	if !strings.Contains(said, "all tried") {
		t.Errorf("not all was tried: %s", said)
	}
	if strings.Contains(said, "WRITTEN") {
		t.Errorf("something was written to:\n%s", said)
	}
	if now := s.looksLike(t); now != s.before {
		t.Errorf("it was\n%s\nand is\n%s\nafter\n%s", s.before, now, said)
	}
}

// attacker is a container whose root has what it takes to mount, and the probe.
func (s *sealedNode) attacker(c *runtime.ContainerConfig) {
	c.Mounts = append(c.Mounts, &runtime.Mount{HostPath: s.probe, ContainerPath: "/probe", Readonly: true})
	sec := c.Linux.SecurityContext
	sec.RunAsUser = &runtime.Int64Value{}
	sec.Capabilities = &runtime.Capability{AddCapabilities: []string{"SYS_ADMIN", "SYS_PTRACE", "DAC_READ_SEARCH", "LEASE", "LINUX_IMMUTABLE"}}
}

func privilegedPod(c *runtime.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true }

func privileged(c *runtime.ContainerConfig) {
	c.Linux.SecurityContext.Privileged, c.Linux.SecurityContext.Capabilities = true, nil
}

func sharedPIDs(c *runtime.PodSandboxConfig) {
	c.Linux.SecurityContext.NamespaceOptions.Pid = runtime.NamespaceMode_POD
}

func inSharedPIDs(c *runtime.ContainerConfig) {
	if c.Linux.SecurityContext.NamespaceOptions == nil {
		c.Linux.SecurityContext.NamespaceOptions = &runtime.NamespaceOption{}
	}
	c.Linux.SecurityContext.NamespaceOptions.Pid = runtime.NamespaceMode_POD
}

// Root in a container that may mount tries every way to the pouch-init that is mounted there.
// Neither the node's file nor the copy that other containers have is changed, and both go on to
// work.
func TestRootInsideCannotOverwritePouchInit(t *testing.T) {
	s := startSealed(t, "")
	busyboxInit := pushBusybox(t, s.Node, "rich:init", func(*v1.ConfigFile) {}, lab.BusyboxInit()...)
	prestart := hooks(t, prestartKey, shell("first", "true"))
	for name, x := range map[string]struct {
		file string
		pod  []func(*runtime.PodSandboxConfig)
		edit []func(*runtime.ContainerConfig)
	}{
		"dumb-init":            {"/run/.pouch/init", []func(*runtime.PodSandboxConfig){annotated(richMode, "dumb-init")}, nil},
		"launcher":             {"/run/.pouch/launch", []func(*runtime.PodSandboxConfig){annotated(richMode, "sbin-init")}, []func(*runtime.ContainerConfig){image(busyboxInit, 0)}},
		"hooks":                {"/run/.pouch/hook", []func(*runtime.PodSandboxConfig){prestart}, nil},
		"privileged":           {"/run/.pouch/hook", []func(*runtime.PodSandboxConfig){prestart, privilegedPod}, []func(*runtime.ContainerConfig){privileged}},
		"holder":               {"/proc/1/root/pouch-init", []func(*runtime.PodSandboxConfig){sharedPIDs}, []func(*runtime.ContainerConfig){inSharedPIDs}},
		"hooks beside holder":  {"/run/.pouch/hook", []func(*runtime.PodSandboxConfig){prestart, sharedPIDs}, []func(*runtime.ContainerConfig){inSharedPIDs}},
		"dumb-init privileged": {"/run/.pouch/init", []func(*runtime.PodSandboxConfig){annotated(richMode, "dumb-init"), privilegedPod}, []func(*runtime.ContainerConfig){privileged}},
	} {
		t.Run(name, func(t *testing.T) {
			p := s.RunPod(t, x.pod...)
			said, code := p.RunToEnd(t, "app", append([]func(*runtime.ContainerConfig){s.attacker, harness.Command("/probe", "overwrite="+x.file)}, x.edit...)...)
			if code != 0 {
				t.Errorf("code %d", code)
			}
			s.untouched(t, said)
			if testing.Verbose() {
				t.Logf("%s", said)
			}
			p.Remove(t)
		})
	}
	// The hooks themselves, inside and after the container, with what it may do.
	t.Run("as hooks", func(t *testing.T) {
		attack := harness.Hook{"name": "attack", "exec": []string{"/probe", "overwrite=/run/.pouch/hook"}, "timeout": "20s", "log": true}
		p := s.RunPod(t, hooks(t, prestartKey, attack), hooks(t, poststopKey, attack))
		c := p.Run(t, "app", s.attacker, harness.Sh("echo between"))
		said, _ := c.Ended(t)
		before, after, ok := strings.Cut(said, "between\n")
		if !ok {
			t.Errorf("log %q", said)
		}
		s.untouched(t, before)
		s.untouched(t, after)
		p.Remove(t)
	})
	p := s.RunPod(t, prestart, annotated(richMode, "dumb-init"))
	if said, code := p.RunToEnd(t, "app", harness.Sh("echo works")); said != "works\n" || code != 0 {
		t.Errorf("another container says %q and ends with %d", said, code)
	}
}

// A write lease on a program, for which root inside needs no capability, makes whoever runs it wait
// for up to 45 s: the one of a container's own pouch-init holds up nobody else.
func TestALeaseInsideHoldsUpNobodyElse(t *testing.T) {
	s := startSealed(t, "")
	prestart := hooks(t, prestartKey, shell("first", "true"))
	taker := s.RunPod(t, prestart).Run(t, "app", s.attacker, harness.Command("/probe", "lease=/run/.pouch/hook", "sleep=24h"), func(c *runtime.ContainerConfig) {
		c.Linux.SecurityContext.Capabilities = &runtime.Capability{DropCapabilities: []string{"ALL"}}
	})
	taker.FollowLog(t, 20*time.Second, func(l harness.LogLine) bool { return l.Text == "leased" })
	other := s.RunPod(t, prestart)
	if said, code := other.RunToEnd(t, "app", harness.Sh("echo ran")); said != "ran\n" || code != 0 {
		t.Errorf("another container says %q and ends with %d", said, code)
	}
	if said := taker.LogText(t); said != "leased\n" {
		t.Errorf("the one with the lease says %q", said)
	}
	taker.Stop(t, 0)
}

// Containers go on with the pouch-init that they were made with when a daemon comes with another
// one, with hooks that run later, too; new ones have the new one.
func TestContainersKeepTheirPouchInit(t *testing.T) {
	s := startSealed(t, "")
	p := s.RunPod(t, annotated(richMode, "dumb-init"), hooks(t, prestartKey, shell("first", "true")), hooks(t, poststopKey, shell("last", "sha256sum /run/.pouch/hook")))
	old := p.Run(t, "old")
	waiting := p.Create(t, "waiting")
	digest := func(c *harness.Container) string {
		return strings.Fields(c.Exec(t, "sha256sum", "/run/.pouch/hook"))[0]
	}
	first := digest(old)
	s.KillDaemon(t)
	program, err := os.ReadFile(s.binary)
	if err == nil {
		err = os.Remove(s.binary)
	}
	if err == nil { // what stands behind an ELF file changes nothing
		err = os.WriteFile(s.binary, append(program, "another version"...), 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.StartDaemon(t)
	if got := digest(old); got != first {
		t.Errorf("a running container has %s, had %s", got, first)
	}
	waiting.Start(t)
	if got := digest(waiting); got != first {
		t.Errorf("a container that was made before has %s, not %s", got, first)
	}
	if fresh := p.Run(t, "fresh"); digest(fresh) == first {
		t.Error("a new container has the old program")
	}
	old.Stop(t, 5)
	r := hookResults(t, old)
	if len(r) != 2 || r[1].Outcome != hookrun.Succeeded || !strings.HasPrefix(r[1].Output, first) {
		t.Errorf("hooks of the old one: %+v", r)
	}
}

// Root inside makes its pod's files immutable and, through a single one of them, their whole
// filesystem read-only: the pod is removed all the same, and nothing of it stays.
func TestAPodIsRemovedWhoseFilesAreReadOnly(t *testing.T) {
	s := startSealed(t, "")
	p := s.RunPod(t)
	c := p.Run(t, "app", s.attacker)
	c.Exec(t, "/probe", "immutable=/etc/hosts", "immutable=/etc/hostname")
	for _, file := range []string{"/etc/hosts", "/dev/shm"} {
		c.Exec(t, "mount", "-o", "remount,ro", file)
	}
	if got := c.Exec(t, "sh", "-c", "(echo x >>/etc/hosts) 2>/dev/null || echo refused"); got != "refused\n" {
		t.Fatalf("the attack did not work: %q", got)
	}
	p.Remove(t)
}

// What leads the node's createContainer hooks into a container is seen from there while it runs.
func TestWhatEntersAContainerIsSealed(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.json"), []byte(declaration(always, "/bin/true", []string{"true"}, "createContainer")), 0o644); err != nil {
		t.Fatal(err)
	}
	s := startSealed(t, "[hooks]\nhooks_dirs = ['"+dir+"']")
	c := s.RunPod(t).Run(t, "app")
	plan, err := hookrun.ReadNodePlan(filepath.Join(s.StateDir(), "containers", c.ID))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(plan.PouchInit, nil, 0o755); err == nil {
		t.Errorf("%s can be written to", plan.PouchInit)
	}
	if now := s.looksLike(t); now != s.before {
		t.Errorf("it was\n%s\nand is\n%s", s.before, now)
	}
}

// What a container with a real init shares with daemon and shim is the word of its root: with FIFOs
// that nobody opens in place of all files, each answer still comes, and the container is stopped.
func TestFIFOsInPlaceOfSharedFilesHoldUpNobody(t *testing.T) {
	s := startSealed(t, "")
	ref := pushBusybox(t, s.Node, "rich:init", func(*v1.ConfigFile) {}, lab.BusyboxInit()...)
	p := s.RunPod(t, annotated(richMode, "sbin-init"))
	c := p.Run(t, "app", image(ref, 0), s.attacker, harness.Sh("echo begun; sleep 1000000"))
	c.AwaitLog(t, "begun\n")
	got := c.Exec(t, "sh", "-c", `cd /run/.pouch && mount -o remount,bind,rw . && umount -l record && umount -l launch
for f in $(find . -type f -o -type p -o -type l); do rm $f && mkfifo $f; done; find . ! -type p ! -type d`)
	if got != "" {
		t.Fatalf("the attack did not work: %q", got)
	}
	ctx := harness.Context(t)
	if _, err := s.Daemon.Runtime.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: c.ID, Verbose: true}); err != nil {
		t.Errorf("status: %v", err)
	}
	if _, err := s.Daemon.Pouch.Units(ctx, &pouchv1.UnitsRequest{ContainerId: c.ID}); err == nil || ctx.Err() != nil {
		t.Errorf("units of a container without a record: %v", err)
	}
	s.KillDaemon(t)
	s.StartDaemon(t)
	c.Stop(t, 1)
	c.Ended(t)
	p.Remove(t)
}

// The folder of a component is the node's own, and that of all containers that have the component.
func TestRootInsideCannotOverwriteAComponent(t *testing.T) {
	agent, registered := t.TempDir(), t.TempDir()
	start := filepath.Join(agent, "start")
	const program = "#!/bin/sh\nexec sleep 1000000\n"
	for path, text := range map[string]string{
		start: program, filepath.Join(registered, "agent.toml"): "path = '" + agent + "'\nscripts = ['start']\nnamespaces = ['*']\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s := startSealed(t, "[rich]\ncomponents_dir = '"+registered+"'")
	ref := pushBusybox(t, s.Node, "rich:init", func(*v1.ConfigFile) {}, lab.BusyboxInit()...)
	p := s.RunPod(t, annotated(richMode, "sbin-init"))
	c := p.Run(t, "app", image(ref, 0), s.attacker)
	c.Exec(t, "sh", "-c", `cd /run/.pouch/components/agent && grep -q sleep start
mount -o remount,bind,rw .; mount -o remount,rw .; mkdir /tmp/m; mount --bind . /tmp/m; mount -o remount,bind,rw /tmp/m
for dir in . /tmp/m; do echo x >$dir/start; chmod 0 $dir/start; touch $dir/new; rm $dir/start; mv $dir/start $dir/old; done; true`)
	if got, err := os.ReadFile(start); err != nil || string(got) != program {
		t.Errorf("it is %q, %v", got, err)
	}
	if left, err := os.ReadDir(agent); err != nil || len(left) != 1 {
		t.Errorf("%v, %v", left, err)
	}
	s.KillDaemon(t)
	s.StartDaemon(t)
	c.Stop(t, 1)
	p.Remove(t)
}
