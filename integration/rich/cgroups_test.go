package rich

import (
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// An init may make cgroups whose paths are longer than any that a file can be opened by.
func TestDeepCgroupsOfAnInit(t *testing.T) {
	n := harness.Start(t)
	c := n.RunPod(t, pod("systemd", "shutdown-timeout", "5s")).Run(t, "app", probe(push(t, n, "systemd", "deep", nil), "wait", "exit=2"))
	c.AwaitLine(t, boot, "waiting")
	_, out := exec(t, c, "sh", "-c", `cd /sys/fs/cgroup; [ -e cgroup.procs ] || cd systemd
name=$(head -c 240 /dev/zero | tr '\0' x); i=0
while [ $i -lt 40 ] && mkdir $name 2>/dev/null && cd -P $name; do i=$((i+1)); done; echo $i`)
	if made := strings.TrimSpace(out); len(made) != 2 {
		t.Fatalf("made %q cgroups, which is no attack", out)
	}
	if _, err := n.Daemon.Runtime.ContainerStats(harness.Context(t), &runtime.ContainerStatsRequest{ContainerId: c.ID}); err != nil {
		t.Error(err)
	}
	c.Stop(t, 0) // systemd itself would remove them
	c.Remove(t)  // the leak check looks for what is left
}

// Who freezes the cgroup that a process is to join holds up that process, and nothing else on the node.
func TestAFrozenContainerHoldsNobodyUp(t *testing.T) {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		t.Skip("the node has cgroup v1, where nobody inside can freeze")
	}
	n := harness.Start(t)
	other := n.RunPod(t).Run(t, "other", harness.Command("sleep", "1000"))
	c := n.RunPod(t, pod("systemd", "shutdown-timeout", "2s")).Run(t, "app", probe(push(t, n, "systemd", "frozen", nil), "wait", "exit=2"))
	c.AwaitLine(t, boot, "waiting")
	// Without controllers of its own a cgroup takes processes in; the files of the one that is the root of a cgroup namespace are
	// held from that namespace only.
	run := func(timeout int64, script string) {
		_, _ = n.Daemon.Runtime.ExecSync(harness.Context(t), &runtime.ExecSyncRequest{ContainerId: c.ID, Cmd: []string{"sh", "-c", script}, Timeout: timeout})
	}
	run(20, `systemd-run --unit=freezer --property=Delegate=yes sh -c '
for c in $(cat /sys/fs/cgroup/cgroup.subtree_control); do echo -$c >/sys/fs/cgroup/cgroup.subtree_control; done
mkdir /sys/fs/cgroup/mine; echo 0 >/sys/fs/cgroup/mine/cgroup.procs
exec unshare --user --map-root-user --cgroup sh -c "echo 1 >/sys/fs/cgroup/cgroup.freeze; echo 1 >/sys/fs/cgroup/init.scope/cgroup.freeze"'`)
	var all sync.WaitGroup
	for range 12 {
		all.Go(func() { run(5, "true") })
	}
	for range 10 {
		begun := time.Now()
		if out := other.Exec(t, "echo", "fine"); out != "fine\n" {
			t.Errorf("the other container says %q", out)
		}
		if took := time.Since(begun); took > harness.Patience(4*time.Second) {
			t.Errorf("an exec in another container took %s", took)
		}
	}
	all.Wait()
	c.Stop(t, 1)
	c.Remove(t)
}
