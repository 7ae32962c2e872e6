package network

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// needRoot skips what needs namespaces and mounts.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes namespaces and mounts")
	}
}

// pluginDir gives the folder of the real CNI plugins, built when they are not there yet.
func pluginDir(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../build/cni/bin")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("../integration/scripts/cni-plugins.sh", dir).CombinedOutput(); err != nil {
		t.Skipf("needs the CNI plugins, which cannot be built: %v: %s", err, out)
	}
	return dir
}

// node is a Manager on folders of its own.
type node struct {
	*Manager
	o Options
}

func newNode(t *testing.T, change ...func(*Options)) *node {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	o := Options{
		StateDir: filepath.Join(dir, "state"), CNIConfDir: filepath.Join(dir, "net.d"), CNICacheDir: filepath.Join(dir, "cache"),
		CNIBinDirs: []string{filepath.Join(dir, "plugins")}, EtcDir: filepath.Join(dir, "etc"), CNITimeout: 30 * time.Second,
	}
	for _, f := range change {
		f(&o)
	}
	mustMkdir(t, o.CNIConfDir, o.CNIBinDirs[0], o.EtcDir)
	n := &node{Manager: open(t, o), o: o}
	t.Cleanup(func() { n.checkClean(t) })
	return n
}

func open(t *testing.T, o Options) *Manager {
	t.Helper()
	m, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil && !strings.Contains(err.Error(), "closed") {
			t.Error(err)
		}
	})
	return m
}

// checkClean fails the test when pins, mounts, files or attachments are left, and takes them away.
func (n *node) checkClean(t *testing.T) {
	t.Helper()
	ctx := context.Background()
	for _, dir := range []string{n.o.nsDir(), n.o.sandboxesDir(), filepath.Join(n.o.CNICacheDir, "attachments"), filepath.Join(n.o.CNICacheDir, "results")} {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			t.Errorf("%s is left in %s", e.Name(), dir)
			id := strings.TrimSuffix(e.Name(), journalEnding)
			_ = n.Detach(ctx, Pod{ID: id})
			_ = n.Unpin(ctx, id)
			_ = n.RemoveFiles(ctx, id)
		}
	}
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(n.o.StateDir))
	if err != nil {
		t.Error(err)
	}
	for i := len(mounts) - 1; i >= 0; i-- {
		if mounts[i].Mountpoint != n.o.nsDir() { // stays until Close, which comes after this
			t.Errorf("mount %s is left", mounts[i].Mountpoint)
		}
		_ = unix.Unmount(mounts[i].Mountpoint, unix.MNT_DETACH)
	}
}

// pin makes the pod's namespaces and takes them away at the end.
func (n *node) pin(t *testing.T, pod Pod) Namespaces {
	t.Helper()
	ns, err := n.Pin(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Unpin(context.Background(), pod.ID); err != nil {
			t.Error(err)
		}
	})
	return ns
}

// inside runs fn on a thread in the pod's namespaces (the user namespace excepted).
func inside(t *testing.T, ns Namespaces, fn func() error) {
	t.Helper()
	err := onThread(func() error {
		for path, flag := range map[string]uintptr{ns.Net: unix.CLONE_NEWNET, ns.IPC: unix.CLONE_NEWIPC, ns.UTS: unix.CLONE_NEWUTS} {
			if path == "" {
				continue
			}
			if err := enter(path, flag); err != nil {
				return fmt.Errorf("enter %s: %w", path, err)
			}
		}
		return fn()
	})
	if err != nil {
		t.Error(err)
	}
}

func mustMkdir(t *testing.T, dirs ...string) {
	t.Helper()
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func mustWrite(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	tmp := path + ".new"
	if err := os.WriteFile(tmp, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, path); err != nil {
		t.Fatal(err)
	}
}

// bridgeNet is a configuration with the real plugins; its bridge and folder of addresses are the test's own.
type bridgeNet struct {
	name, bridge, ipam string
	version            string
	subnets            []string
	more               []map[string]any // plugins after the bridge
}

var bridges int

func newBridgeNet(t *testing.T) *bridgeNet {
	t.Helper()
	bridges++
	b := &bridgeNet{
		name: fmt.Sprintf("pouchnet%d-%d", os.Getpid(), bridges), bridge: fmt.Sprintf("pn%d-%d", os.Getpid()%100000, bridges),
		ipam: filepath.Join(t.TempDir(), "ipam"), version: "1.1.0", subnets: []string{fmt.Sprintf("10.213.%d.0/24", bridges)},
	}
	t.Cleanup(func() {
		if left := b.reserved(t); len(left) > 0 {
			t.Errorf("addresses %v are still reserved", left)
		}
		if link, err := netlink.LinkByName(b.bridge); err == nil {
			if err := netlink.LinkDel(link); err != nil {
				t.Error(err)
			}
		}
	})
	return b
}

func (b *bridgeNet) conf(t *testing.T) string {
	t.Helper()
	var ranges [][]map[string]string
	for _, s := range b.subnets {
		ranges = append(ranges, []map[string]string{{"subnet": s}})
	}
	plugins := append([]map[string]any{{
		"type": "bridge", "bridge": b.bridge, "isGateway": true,
		"ipam": map[string]any{"type": "host-local", "dataDir": b.ipam, "ranges": ranges},
	}}, b.more...)
	text, err := json.Marshal(map[string]any{"cniVersion": b.version, "name": b.name, "plugins": plugins})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// reserved are the addresses that host-local has given out.
func (b *bridgeNet) reserved(t *testing.T) []string {
	t.Helper()
	entries, _ := os.ReadDir(filepath.Join(b.ipam, b.name))
	var list []string
	for _, e := range entries {
		if e.Name() != "lock" && !strings.HasPrefix(e.Name(), "last_reserved_ip") {
			list = append(list, e.Name())
		}
	}
	return list
}

// withBridge is a node whose folder has the bridge's configuration from the start.
func withBridge(t *testing.T, b *bridgeNet, change ...func(*Options)) *node {
	t.Helper()
	needRoot(t)
	plugins := pluginDir(t)
	return newNode(t, append(change, func(o *Options) {
		o.CNIBinDirs = append(o.CNIBinDirs, plugins)
		mustMkdir(t, o.CNIConfDir)
		mustWrite(t, filepath.Join(o.CNIConfDir, "10-test.conflist"), b.conf(t), 0o644)
	})...)
}

func testPod(id string) Pod {
	return Pod{ID: id, Namespace: "default", Name: "pod-" + id, UID: "uid-" + id, Hostname: "host-" + id}
}

func inodeOf(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}
