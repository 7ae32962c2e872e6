package rich

import (
	"fmt"
	"strings"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// smallInits are the image's dumb-init and ours. Where they differ, docs/rich-containers.md says so.
var smallInits = []struct {
	machine
	path       string
	cannotExec int32 // the code of a command that is not there, and of one that may not be executed
	groups     bool  // a signal reaches process groups of the session's own
}{
	{machine{"dumb-init", "dumb-init"}, "/usr/bin/dumb-init", 2, false},
	{machine{"busybox", "dumb-init"}, "/run/.pouch/init", 0, true},
}

func TestSmallInits(t *testing.T) {
	for _, s := range smallInits {
		t.Run(s.image, func(t *testing.T) {
			t.Parallel()
			base(t, s.image)
			n := harness.Start(t)
			ref := push(t, n, s.image, "1", nil)
			p := n.RunPod(t, pod(s.mode))
			t.Run("is pid 1", func(t *testing.T) {
				c := p.Run(t, "app", image(ref, "sleep", "1000000"))
				if got := strings.Split(c.Exec(t, "cat", "/proc/1/cmdline"), "\x00")[0]; got != s.path {
					t.Errorf("pid 1 is %q", got)
				}
				c.Stop(t, 90)
				if s := c.Status(t); s.ExitCode != 143 {
					t.Errorf("code %d", s.ExitCode)
				}
			})
			t.Run("ends as its command does", func(t *testing.T) {
				for script, want := range map[string]int32{"exit 0": 0, "exit 7": 7, "kill -9 $$": 137, "kill -SEGV $$": 139, "exec /no/such/program": 127} {
					if text, code := p.RunToEnd(t, fmt.Sprintf("c%d", want), image(ref, "sh", "-c", script)); code != want {
						t.Errorf("%q ends with %d, want %d: %s", script, code, want, text)
					}
				}
			})
			t.Run("a command that cannot be run", func(t *testing.T) {
				for argument, want := range map[string]int32{"/no/such/program": 127, "/etc/passwd": 126} {
					if s.cannotExec != 0 {
						want = s.cannotExec
					}
					text, code := p.RunToEnd(t, fmt.Sprintf("cannot%d", len(argument)), image(ref, argument))
					if code != want || !strings.Contains(text, argument) {
						t.Errorf("%s ends with %d, want %d: %s", argument, code, want, text)
					}
				}
			})
			t.Run("passes signals on", func(t *testing.T) {
				// A child in a process group of its own, which a signal for one group never reaches. Without a terminal the shell
				// makes no groups.
				c := p.Run(t, "session", image(ref, "sh", "-c", `set -m
trap 'echo parent; sleep 1; exit 5' TERM
sh -c 'trap "echo child; exit 0" TERM; echo ready; while :; do sleep 0.1; done' &
while :; do sleep 0.1; done`), func(c *runtime.ContainerConfig) { c.Tty = true })
				c.AwaitLog(t, "ready")
				c.Stop(t, 90)
				if text, code := c.Ended(t); code != 5 || !strings.Contains(text, "parent") || strings.Contains(text, "child") != s.groups {
					t.Errorf("code %d, %q", code, text)
				}
				rt := p.Run(t, "real-time", image(ref, "sh", "-c", "trap 'exit 6' 40; echo ready; while :; do sleep 0.1; done"))
				rt.AwaitLog(t, "ready")
				exec(t, rt, "kill", "-40", "1")
				if text, code := rt.Ended(t); code != 6 {
					t.Errorf("code %d, %q", code, text)
				}
			})
			t.Run("leaves no zombies", func(t *testing.T) {
				const orphans = 10000
				c := p.Run(t, "orphans", image(ref, "sh", "-c", fmt.Sprintf("i=0; while [ $i -lt %d ]; do ( : & ); i=$((i+1)); done; echo all; exec sleep 1000000", orphans)))
				c.AwaitLine(t, 2*boot, "all")
				harness.Eventually(t, "no zombie is left", func() bool {
					code, _ := exec(t, c, "sh", "-c", "cat /proc/[0-9]*/stat 2>/dev/null | grep -q ') Z '")
					return code == 1
				})
				c.Stop(t, 90)
			})
			t.Run("the deaf are killed", func(t *testing.T) {
				c := p.Run(t, "deaf", image(ref, "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"))
				c.AwaitLog(t, "ready")
				c.Stop(t, 1)
				if s := c.Status(t); s.ExitCode != 137 {
					t.Errorf("code %d", s.ExitCode)
				}
			})
		})
	}
}
