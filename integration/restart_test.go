package integration

import (
	"strconv"
	"strings"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// ticker is a script that counts on stdout until /stop appears, and then exits with 7.
const ticker = "i=0; while ! test -e /stop; do echo tick $i; i=$((i+1)); sleep 0.02; done; exit 7"

func TestContainersOutliveTheDaemon(t *testing.T) {
	for name, end := range map[string]func(*harness.Node, testing.TB){
		"terminated": (*harness.Node).TerminateDaemon,
		"killed":     (*harness.Node).KillDaemon,
	} {
		t.Run(name, func(t *testing.T) {
			n := harness.Start(t)
			p := n.RunPod(t)
			c := p.Run(t, "app", harness.Sh(ticker))
			short := p.Run(t, "short", harness.Sh("while ! test -e /stop; do sleep 0.02; done; echo bye; exit 9"))
			created := p.Create(t, "created")
			c.AwaitLog(t, "tick 5")
			before, beforePod := c.Status(t), p.Status(t)

			end(n, t)
			last := lastTick(t, c)
			harness.Eventually(t, "the log goes on without a daemon", func() bool { return lastTick(t, c) > last+10 })

			n.StartDaemon(t)
			after, afterPod := c.Status(t), p.Status(t)
			if after.State != runtime.ContainerState_CONTAINER_RUNNING || after.StartedAt != before.StartedAt || after.CreatedAt != before.CreatedAt {
				t.Errorf("before %v, after %v", before, after)
			}
			if after.ImageRef != before.ImageRef || after.ImageId != before.ImageId || after.Image.GetImage() != before.Image.GetImage() {
				t.Errorf("image before %v, after %v", before, after)
			}
			if afterPod.State != runtime.PodSandboxState_SANDBOX_READY || afterPod.GetNetwork().GetIp() != beforePod.GetNetwork().GetIp() {
				t.Errorf("sandbox before %v, after %v", beforePod, afterPod)
			}
			letEnd(t, c)
			if _, code := c.Ended(t); code != 7 {
				t.Errorf("exit code is %d", code)
			}
			checkTicks(t, c)
			created.Start(t)
			if s := created.Status(t); s.State != runtime.ContainerState_CONTAINER_RUNNING {
				t.Errorf("a container created before the restart and started after it is %s", s.State)
			}
			letEnd(t, short)
			if text, code := short.Ended(t); code != 9 || text != "bye\n" {
				t.Errorf("exit code %d, log %q", code, text)
			}
		})
	}
}

// What ends while no daemon looks is reported by the next one.
func TestEndsWithoutADaemonAreReported(t *testing.T) {
	n := harness.Start(t)
	p := n.RunPod(t)
	c := p.Run(t, "app", harness.Sh("echo up; sleep 1; echo down; exit 9"))
	c.AwaitLog(t, "up")
	n.KillDaemon(t)
	c.AwaitLog(t, "down")
	n.StartDaemon(t)
	text, code := c.Ended(t)
	if s := c.Status(t); code != 9 || text != "up\ndown\n" || s.Reason != "Error" || s.FinishedAt <= s.StartedAt {
		t.Errorf("log %q, status %v", text, s)
	}
}

func TestSecondDaemonOnTheSameRootFails(t *testing.T) {
	n := harness.Start(t)
	p := n.RunPod(t)
	out, err := runDaemon(t, n)
	if err == nil {
		t.Fatalf("a second daemon ran on %s: %s", n.RootDir(), out)
	}
	if !strings.Contains(out, n.RootDir()) {
		t.Errorf("its error does not name %s: %s", n.RootDir(), out)
	}
	if s := p.Status(t); s.State != runtime.PodSandboxState_SANDBOX_READY {
		t.Errorf("the first daemon's sandbox is %s", s.State)
	}
}

// letEnd makes a container end that waits for /stop. Its exit code says nothing: the container's end may be quicker than
// the command's own and kill it.
func letEnd(t testing.TB, c *harness.Container) {
	t.Helper()
	_, err := c.Pod.Node.Daemon.Runtime.ExecSync(harness.Context(t), &runtime.ExecSyncRequest{ContainerId: c.ID, Cmd: []string{"touch", "/stop"}, Timeout: 30})
	if err != nil {
		t.Fatalf("ExecSync touch /stop: %v", err)
	}
}

func lastTick(t testing.TB, c *harness.Container) int {
	t.Helper()
	lines := harness.ReadLog(t, c.LogFile())
	if len(lines) == 0 {
		return -1
	}
	i, err := strconv.Atoi(strings.TrimPrefix(lines[len(lines)-1].Text, "tick "))
	if err != nil {
		t.Fatalf("the last line is %q", lines[len(lines)-1].Text)
	}
	return i
}

// checkTicks fails the test unless each tick stands in the log exactly once, in order.
func checkTicks(t testing.TB, c *harness.Container) {
	t.Helper()
	for i, l := range harness.ReadLog(t, c.LogFile()) {
		if l.Text != "tick "+strconv.Itoa(i) {
			t.Errorf("line %d of the log is %q", i, l.Text)
			return
		}
	}
}
