package integration

import (
	"strings"
	"testing"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// StreamSteps are the steps of streams at which the daemon is killed.
var StreamSteps = []string{"exec.started", "attach.connected"}

// Clients of a daemon that dies get an end, their commands are killed, containers go on.
func TestDaemonDiesUnderStreams(t *testing.T) {
	n := harness.Start(t)
	b := newBystander(t, n)
	c := n.RunPod(t).Run(t, "app", harness.Sh(answering), withStdin(false))
	for name, end := range map[string]func(testing.TB){"SIGKILL": n.KillDaemon, "SIGTERM": n.TerminateDaemon} {
		t.Run(name, func(t *testing.T) {
			attached := c.OpenAttach(t)
			answers(t, attached, "one")
			silent := c.OpenExec(t, false, "sh", "-c", "trap '' TERM HUP PIPE; echo begun; sleep 98765 & sleep 98765")
			silent.Await(t, "begun")
			tty := c.OpenExec(t, true, "sh", "-c", "echo begun; sleep 98765")
			tty.Await(t, "begun")
			end(t)
			for what, s := range map[string]*harness.Stream{"exec": silent, "exec on a terminal": tty, "attach": attached} {
				if code, err := s.End(t); err == nil {
					t.Errorf("%s ended well, with %d", what, code)
				} else if name == "SIGTERM" && !strings.Contains(err.Error(), "the daemon is ending") {
					t.Errorf("%s was told %v", what, err)
				}
			}
			n.StartDaemon(t)
			harness.Eventually(t, "the commands are killed", func() bool { return !strings.Contains(c.Exec(t, "ps", "-o", "args"), "98765") })
			again := c.OpenAttach(t)
			answers(t, again, "two")
			again.Leave()
			b.check(t)
		})
	}
	c.Stop(t, 0)
}

func TestKilledInAStream(t *testing.T) {
	n := harness.Start(t, harness.Failpoints(t))
	b := newBystander(t, n)
	c := n.RunPod(t).Run(t, "app", harness.Sh(answering), withStdin(false))
	for _, step := range StreamSteps {
		t.Run(step, func(t *testing.T) {
			n.TerminateDaemon(t)
			n.StartDaemon(t, "CRI_POUCH_FAILPOINTS="+step+"=kill")
			var s *harness.Stream
			if step == "exec.started" {
				s = c.OpenExec(t, false, "sleep", "98765")
			} else {
				s = c.OpenAttach(t)
			}
			if code, err := s.End(t); err == nil {
				t.Errorf("the stream ended well, with %d", code)
			}
			<-n.Daemon.Gone()
			n.StartDaemon(t)
			harness.Eventually(t, "the command is killed", func() bool { return !strings.Contains(c.Exec(t, "ps", "-o", "args"), "98765") })
			again := c.OpenAttach(t)
			answers(t, again, "again")
			again.Leave()
			b.check(t)
		})
	}
	c.Stop(t, 0)
}
