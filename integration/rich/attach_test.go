package rich

import (
	"strings"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/cmd/cri-pouch/remote"
	"github.com/cri-pouch/cri-pouch/integration/harness"
	"github.com/cri-pouch/cri-pouch/internal/richrun"
)

// Clients type to the application, not to the init; one that leaves changes nothing, and the end of the input is the
// application's too.
func clientsAttachToTheApplication(t *testing.T, n *harness.Node, m machine, ref string) {
	c := n.RunPod(t, pod(m.mode)).Run(t, "app", image(ref, "sh", "-c", "read x; echo got $x; read y; echo then $y >&2; cat; echo the end; exit 4"),
		func(c *runtime.ContainerConfig) { c.Stdin, c.StdinOnce = true, false })
	first := c.OpenAttach(t)
	first.Send(t, "one\n")
	first.Await(t, "got one\n")
	first.Leave()
	first.End(t)
	second := c.OpenAttach(t)
	second.Send(t, "two\nrest\n")
	second.AwaitErr(t, "then two\n")
	second.Await(t, "rest\n")
	if s := c.Status(t); s.State != runtime.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the container is %s", s.State)
	}
	second.Leave()
	second.End(t)
	c.Stop(t, 90)
	text, _ := c.Ended(t)
	for _, line := range []string{"got one\n", "then two\n", "rest\n"} {
		if !strings.Contains(text, line) || len(text) != len("got one\nthen two\nrest\n") {
			t.Errorf("log %q", text)
		}
	}

	once := n.RunPod(t, pod(m.mode)).Run(t, "app", image(ref, "sh", "-c", "cat; echo the end; exit 4"), func(c *runtime.ContainerConfig) { c.Stdin, c.StdinOnce = true, true })
	only := once.OpenAttach(t)
	only.Send(t, "text\n")
	only.Await(t, "text\n")
	only.In.Close()
	if text, code := once.Ended(t); code != 4 || text != "text\nthe end\n" {
		t.Errorf("code %d, log %q", code, text)
	}
}

// The application's terminal is its own: it can be typed to, resized, left and attached to again, and its shell has job
// control. What the init and its services say is not on it.
func clientsAttachToTheTerminal(t *testing.T, n *harness.Node, m machine, ref string) {
	c := n.RunPod(t, pod(m.mode)).Run(t, "app", image(ref, "sh"), func(c *runtime.ContainerConfig) {
		c.Tty, c.Stdin = true, true
		c.Envs = []*runtime.KeyValue{variable("PS1", "> "), variable("TERM", "xterm")}
	})
	first := c.OpenAttach(t)
	first.Sizes <- remote.Size{Width: 123, Height: 45}
	hasSize(t, c, "45 123")
	first.Send(t, "tty; stty size; echo $TERM\n")
	first.Await(t, "45 123\n")
	first.Await(t, "xterm\n")
	first.Leave()
	first.End(t)
	second := c.OpenAttach(t)
	second.Sizes <- remote.Size{Width: 77, Height: 33}
	hasSize(t, c, "33 77")
	second.Send(t, "stty size\n")
	second.Await(t, "33 77\n")
	second.Send(t, "sleep 1000\n")
	harness.Eventually(t, "the shell's command runs", func() bool {
		code, _ := exec(t, c, "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -q 'sleep 100[0]'")
		return code == 0
	})
	second.Send(t, "\x03")
	second.Send(t, "exit 6\n")
	text, code := c.Ended(t)
	if code != 6 || strings.Contains(text, "job control") || strings.Contains(text, "systemd") || strings.Contains(text, "INIT:") {
		t.Errorf("code %d, log %q", code, text)
	}
}

// hasSize waits until the application's terminal has a size. A client's size and what it types go different ways.
func hasSize(t *testing.T, c *harness.Container, rowsAndColumns string) {
	t.Helper()
	harness.Eventually(t, "the terminal has "+rowsAndColumns, func() bool {
		_, out := exec(t, c, "sh", "-c", "stty size <"+richrun.Folder+"/"+richrun.TerminalLink)
		return out == rowsAndColumns
	})
}
