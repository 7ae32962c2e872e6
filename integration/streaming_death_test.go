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
			attached := openAttach(t, c)
			attached.answers(t, "one")
			silent := openExec(t, c, false, "sh", "-c", "trap '' TERM HUP PIPE; echo begun; sleep 98765 & sleep 98765")
			silent.await(t, "begun")
			tty := openExec(t, c, true, "sh", "-c", "echo begun; sleep 98765")
			tty.await(t, "begun")
			end(t)
			for what, s := range map[string]*session{"exec": silent, "exec on a terminal": tty, "attach": attached} {
				if code, err := s.end(t); err == nil {
					t.Errorf("%s ended well, with %d", what, code)
				} else if name == "SIGTERM" && !strings.Contains(err.Error(), "the daemon is ending") {
					t.Errorf("%s was told %v", what, err)
				}
			}
			n.StartDaemon(t)
			harness.Eventually(t, "the commands are killed", func() bool { return !strings.Contains(c.Exec(t, "ps", "-o", "args"), "98765") })
			again := openAttach(t, c)
			again.answers(t, "two")
			again.leave()
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
			var s *session
			if step == "exec.started" {
				s = openExec(t, c, false, "sleep", "98765")
			} else {
				s = openAttach(t, c)
			}
			if code, err := s.end(t); err == nil {
				t.Errorf("the stream ended well, with %d", code)
			}
			<-n.Daemon.Gone()
			n.StartDaemon(t)
			harness.Eventually(t, "the command is killed", func() bool { return !strings.Contains(c.Exec(t, "ps", "-o", "args"), "98765") })
			again := openAttach(t, c)
			again.answers(t, "again")
			again.leave()
			b.check(t)
		})
	}
	c.Stop(t, 0)
}
