package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// withPlugin makes a shell script the node's only CNI plugin.
func withPlugin(t *testing.T, n *harness.Node, script string) {
	t.Helper()
	dir := t.TempDir()
	result := `{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"x"}],"ips":[{"address":"10.9.9.9/24","interface":0}]}`
	script = "#!/bin/sh\n[ $CNI_COMMAND != ADD ] || echo '" + result + "'\n" + script + "\n"
	if err := os.WriteFile(filepath.Join(dir, "script"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	n.CNIBin = dir
	conf, err := json.Marshal(map[string]any{"cniVersion": "1.1.0", "name": "scripted", "plugins": []map[string]any{{"type": "script"}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(n.CNIConfDir(), "00-script.conflist"), conf, 0o644); err != nil {
		t.Fatal(err)
	}
}

// A plugin that does not come back from GC keeps nobody from the daemon's socket, and ends with the daemon.
func TestAHangingGCKeepsNobodyWaiting(t *testing.T) {
	n := harness.Start(t)
	n.TerminateDaemon(t)
	pidFile := filepath.Join(t.TempDir(), "pid")
	withPlugin(t, n, "[ $CNI_COMMAND != GC ] || { echo $$ > "+pidFile+".new; mv "+pidFile+".new "+pidFile+"; exec sleep 1000; }")
	n.StartDaemon(t)
	var pid int
	harness.Eventually(t, "the plugin is asked", func() bool {
		b, err := os.ReadFile(pidFile)
		pid, _ = strconv.Atoi(strings.TrimSpace(string(b)))
		return err == nil && pid > 0
	})
	if _, err := n.Daemon.Runtime.Version(harness.Context(t), &runtime.VersionRequest{}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, 0); err != nil {
		t.Errorf("the daemon is served when its plugin has ended: %v", err)
	}
	n.TerminateDaemon(t)
	harness.Eventually(t, "the plugin has ended", func() bool { return syscall.Kill(pid, 0) != nil })
}

// What a plugin says for STATUS is the condition NetworkReady.
func TestTheNetworkIsReadyWhenItsPluginsSaySo(t *testing.T) {
	n := harness.Prepare(t)
	broken := filepath.Join(t.TempDir(), "broken")
	if err := os.WriteFile(broken, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	withPlugin(t, n, "[ $CNI_COMMAND != STATUS ] || [ ! -e "+broken+` ] || { echo '{"cniVersion":"1.1.0","code":50,"msg":"no route to the controller"}'; exit 1; }`)
	n.StartDaemon(t)
	networkReady := func() *runtime.RuntimeCondition {
		r, err := n.Daemon.Runtime.Status(harness.Context(t), &runtime.StatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range r.Status.Conditions {
			if c.Type == runtime.NetworkReady {
				return c
			}
		}
		return nil
	}
	if c := networkReady(); c.GetStatus() || c.GetReason() != "NetworkPluginNotReady" || !strings.Contains(c.GetMessage(), "no route to the controller") {
		t.Errorf("with a plugin that cannot connect pods: %v", c)
	}
	if err := os.Remove(broken); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, "the network is ready", func() bool { return networkReady().GetStatus() })
}
