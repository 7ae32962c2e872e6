// Package harness gives a test a cri-pouch node of its own (package lab) and short ways to run pods on it. What a test
// made is removed when it ends, also when it fails, and a leak check follows.
package harness

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/cri-pouch/cri-pouch/integration/lab"
	"github.com/cri-pouch/cri-pouch/integration/leak"
)

// Image names of every node's registry; version 2 shares its first layer with version 1.
const (
	Busybox  = lab.Domain + "/busybox:1"
	Busybox2 = lab.Domain + "/busybox:2"
)

// Node is a running cri-pouch with its registry and network.
type Node struct {
	*lab.Lab
	before *leak.Snapshot // what there was when the daemon had first started
}

// Option changes what a node is made of.
type Option func(*lab.Options)

// Failpoints uses the daemon that was built with failpoints.
func Failpoints(t testing.TB) Option {
	binary := filepath.Join(Top(t), "build/failpoints/cri-pouch")
	needFile(t, binary, "make build-tests")
	return func(o *lab.Options) { o.Binary = binary }
}

// Config adds sections to the daemon's configuration file.
func Config(toml string) Option { return func(o *lab.Options) { o.Config += toml + "\n" } }

// Root places the daemon's root folder.
func Root(dir string) Option { return func(o *lab.Options) { o.Root = dir } }

// WithRegistry sets how the registry is reached.
func WithRegistry(r lab.RegistryOptions) Option { return func(o *lab.Options) { o.Registry = r } }

// WithoutCNI leaves the folder of the CNI configuration empty.
func WithoutCNI() Option { return func(o *lab.Options) { o.NoCNI = true } }

// Start gives a node whose registry holds Busybox and Busybox2. The test is skipped, with the reason, where the machine
// cannot run it.
func Start(t testing.TB, options ...Option) *Node {
	t.Helper()
	n := Prepare(t, options...)
	n.StartDaemon(t)
	return n
}

// Prepare is Start without starting the daemon.
func Prepare(t testing.TB, options ...Option) *Node {
	t.Helper()
	o := lab.Options{}
	o.Binary, o.CNIBin = Programs(t)
	// CRI_POUCH_TEST_CGROUPS=systemd: systemd makes the cgroups, where it runs the machine.
	o.Systemd = os.Getenv("CRI_POUCH_TEST_CGROUPS") == "systemd"
	for _, f := range options {
		f(&o)
	}
	needFile(t, o.Binary, "make build-tests")

	l, err := lab.New(t.Context(), o)
	if err != nil {
		t.Fatalf("make a lab: %v", err)
	}
	n := &Node{Lab: l}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the daemon's log ends with:\n%s", l.Daemon.LogTail(8000))
		}
		n.checkLeaks(t)
		if err := l.Close(context.Background()); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	for tag, version := range map[string]string{"busybox:1": "one", "busybox:2": "two"} {
		img, err := lab.BusyboxImage(version, nil)
		if err == nil {
			err = l.Images.Push(tag, img)
		}
		if err != nil {
			t.Fatalf("build image %s: %v", tag, err)
		}
	}
	return n
}

// Programs gives the daemon that is tested and the folder of the CNI plugins. The test is skipped, with the reason, where the
// machine cannot run them.
func Programs(t testing.TB) (binary, plugins string) {
	t.Helper()
	NeedRoot(t)
	dir := Top(t)
	binary, plugins = filepath.Join(dir, "bin/cri-pouch"), filepath.Join(dir, "build/cni/bin")
	if b := os.Getenv("CRI_POUCH_TEST_DAEMON"); b != "" {
		binary = b
	}
	needFile(t, binary, "make build-tests")
	needFile(t, filepath.Join(plugins, "bridge"), "make deps")
	needFile(t, lab.Busybox, "apt-get install busybox-static")
	return binary, plugins
}

// StartDaemon starts the daemon and waits until it is ready.
func (n *Node) StartDaemon(t testing.TB, env ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience(2*time.Minute))
	defer cancel()
	if err := n.Daemon.Start(ctx, env...); err != nil {
		t.Fatalf("start the daemon: %v", err)
	}
	if n.before == nil {
		n.before = n.takeLeaks(t)
	}
}

// ShimKiller finds the node's shim, for which its daemon has to run, and gives what kills it.
func (n *Node) ShimKiller(t testing.TB) func() {
	t.Helper()
	pids, err := n.Daemon.Shims()
	if err != nil || len(pids) != 1 {
		t.Fatalf("%d shims run: %v", len(pids), err)
	}
	return func() {
		t.Helper()
		if err := lab.KillProcess(Context(t), pids[0]); err != nil {
			t.Fatal(err)
		}
	}
}

// KillDaemon ends the daemon by SIGKILL.
func (n *Node) KillDaemon(t testing.TB) {
	t.Helper()
	if err := n.Daemon.Kill(Context(t)); err != nil {
		t.Fatal(err)
	}
}

// TerminateDaemon ends the daemon by SIGTERM.
func (n *Node) TerminateDaemon(t testing.TB) {
	t.Helper()
	if err := n.Daemon.Terminate(Context(t)); err != nil {
		t.Fatal(err)
	}
}

// NeedRoot skips a test that only root can run.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

func needFile(t testing.TB, path, fix string) {
	t.Helper()
	if _, err := os.Stat(path); err != nil {
		t.Skipf("%s is missing: %s", path, fix)
	}
}

// Top is the folder that bin/ and build/ stand in: CRI_POUCH_TEST_ROOT, or the module's.
func Top(t testing.TB) string {
	t.Helper()
	if dir := os.Getenv("CRI_POUCH_TEST_ROOT"); dir != "" {
		return dir
	}
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for d := dir; ; d = filepath.Dir(d) {
		if _, err := os.Stat(filepath.Join(d, "go.mod")); err == nil {
			return d
		}
		if d == "/" {
			t.Fatalf("no go.mod above %s: set CRI_POUCH_TEST_ROOT", dir)
		}
	}
}

// LongEnough is more than anything takes that is to come, on a machine that is busy with other things.
const LongEnough = time.Minute

// Patience stretches a limit by CRI_POUCH_TEST_SLOW, for machines that are emulated in software.
func Patience(d time.Duration) time.Duration {
	factor, err := strconv.Atoi(os.Getenv("CRI_POUCH_TEST_SLOW"))
	if err != nil || factor < 1 {
		factor = 1
	}
	return d * time.Duration(factor)
}

// Context limits one step of a test to two minutes.
func Context(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience(2*time.Minute))
	t.Cleanup(cancel)
	return ctx
}

// Eventually fails the test when ok does not become true in time. It is for states that no event announces.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(Patience(LongEnough))
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("never came true: %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
