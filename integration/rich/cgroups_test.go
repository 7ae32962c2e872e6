package rich

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

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

// freeze freezes the cgroup that a container sees as the root. Without controllers of its own that takes processes in; and its
// files are held from the cgroup namespace alone whose root it is.
const freeze = `cd /sys/fs/cgroup; mkdir mine; echo 0 >mine/cgroup.procs
while [ -n "$(cat cgroup.subtree_control)" ]; do
	find . -name cgroup.subtree_control | while read -r f; do for c in $(cat $f); do echo -$c >$f; done; done
done
exec unshare --user --map-root-user --cgroup sh -c "echo 1 >cgroup.freeze"`

// Who freezes the cgroup that a process is to join holds up that process, and nothing else on the node.
func TestAFrozenContainerHoldsNobodyUp(t *testing.T) {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		t.Skip("the node has cgroup v1, where nobody inside can freeze")
	}
	n := harness.Start(t)
	other := n.RunPod(t).Run(t, "other", harness.Command("sleep", "1000"))
	c := n.RunPod(t, pod("systemd", "shutdown-timeout", "2s")).Run(t, "app", probe(push(t, n, "systemd", "frozen", nil), "wait", "exit=2"))
	c.AwaitLine(t, boot, "waiting")
	run := func(ctx context.Context, timeout int64, script string) {
		_, _ = n.Daemon.Runtime.ExecSync(ctx, &runtime.ExecSyncRequest{ContainerId: c.ID, Cmd: []string{"sh", "-c", script}, Timeout: timeout})
	}
	run(harness.Context(t), 20, "setsid sh -c '"+freeze+"' >/dev/null 2>&1 &")
	harness.Eventually(t, "root inside has frozen the container", func() bool {
		dirs, err := n.Cgroups()
		return err == nil && slices.ContainsFunc(dirs, func(dir string) bool {
			b, err := os.ReadFile(filepath.Join(dir, "cgroup.freeze"))
			return err == nil && filepath.Base(dir) == "inner" && strings.TrimSpace(string(b)) == "1"
		})
	})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var all sync.WaitGroup
	for range 12 { // they hang for longer than the others have
		all.Go(func() { run(ctx, int64(2*harness.Patience(harness.LongEnough).Seconds()), "true") })
	}
	for range 10 {
		if out := other.Exec(t, "echo", "fine"); out != "fine\n" {
			t.Errorf("the other container says %q", out)
		}
	}
	cancel()
	all.Wait()
	c.Stop(t, 1)
	c.Remove(t)
}
