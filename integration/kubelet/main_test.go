package kubelet

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/cri-pouch/cri-pouch/integration/kubelet/cluster"
	"github.com/cri-pouch/cri-pouch/integration/lab"
	"github.com/cri-pouch/cri-pouch/integration/leak"
)

// shared is the cluster of all tests.
var shared struct {
	once   sync.Once
	node   *node
	before *leak.Snapshot // what there was before the first pod
	hooks  string         // the folder of the node's hooks
	err    error

	mu       sync.Mutex
	measured []string
}

// measured notes a figure that TestMain prints: of a test that passes nothing else is shown.
func measured(t testing.TB, format string, args ...any) {
	t.Helper()
	line := fmt.Sprintf(format, args...)
	t.Log(line)
	shared.mu.Lock()
	defer shared.mu.Unlock()
	shared.measured = append(shared.measured, line)
}

func TestMain(m *testing.M) {
	code := m.Run()
	for _, line := range shared.measured {
		fmt.Println("measured:", line)
	}
	if n := shared.node; n != nil {
		if shared.err == nil && n.leftBehind(shared.before) {
			code = 1
		}
		if err := n.Close(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, "clean up:", err)
			code = 1
		}
	}
	_ = os.RemoveAll(shared.hooks)
	os.Exit(code)
}

// node is the cluster with its images.
type node struct{ *cluster.Cluster }

// start gives the shared cluster. The test is skipped, with the reason, where the machine cannot run it.
func start(t testing.TB) *node {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	top, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	o := cluster.Options{Binaries: filepath.Join(top, "build/kubernetes/bin"), DiskSize: diskSize}
	o.Lab.Binary, o.Lab.CNIBin = filepath.Join(top, "bin/cri-pouch"), filepath.Join(top, "build/cni/bin")
	for file, fix := range map[string]string{
		filepath.Join(o.Binaries, "kubelet"): "make kubernetes", o.Lab.Binary: "make build",
		filepath.Join(o.Lab.CNIBin, "bridge"): "make deps", lab.Busybox: "make deps",
	} {
		if _, err := os.Stat(file); err != nil {
			t.Skipf("%s is missing: %s", file, fix)
		}
	}
	shared.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		if shared.hooks, shared.err = os.MkdirTemp("", "cpt-hooks-"); shared.err != nil {
			return
		}
		o.Lab.Config = fmt.Sprintf(daemonConfig, shared.hooks)
		c, err := cluster.New(ctx, o)
		if err != nil {
			shared.err = err
			return
		}
		shared.node = &node{c}
		if shared.err = shared.node.pushImages(); shared.err == nil {
			shared.before = shared.node.takeLeaks()
		}
	})
	if shared.err != nil {
		t.Fatalf("start the cluster: %v", shared.err)
	}
	return shared.node
}
