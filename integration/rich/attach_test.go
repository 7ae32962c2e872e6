package rich

import (
	"bytes"
	"context"
	"io"
	"strings"
	"sync"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/cmd/cri-pouch/remote"
	"github.com/cri-pouch/cri-pouch/integration/harness"
	"github.com/cri-pouch/cri-pouch/internal/richrun"
)

// client is somebody who is attached to a container.
type client struct {
	typing *io.PipeWriter
	sizes  chan remote.Size
	leave  context.CancelFunc
	done   chan struct{}

	mu  sync.Mutex
	got bytes.Buffer
	err error
}

func (c *client) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.got.Write(p)
}

func (c *client) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.got.String()
}

// attach connects a client to a container that has a standard input.
func attach(t *testing.T, to *harness.Container) *client {
	t.Helper()
	tty := to.Config.Tty
	r, err := to.Pod.Node.Daemon.Runtime.Attach(harness.Context(t), &runtime.AttachRequest{ContainerId: to.ID, Tty: tty, Stdin: true, Stdout: true, Stderr: !tty})
	if err != nil {
		t.Fatalf("Attach: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	in, typing := io.Pipe()
	c := &client{typing: typing, sizes: make(chan remote.Size), leave: cancel, done: make(chan struct{})}
	streams := remote.Streams{In: in, Out: c, TTY: tty, Sizes: c.sizes}
	if !tty {
		streams.Err = c
	}
	go func() {
		defer close(c.done)
		_, c.err = remote.Run(ctx, r.Url, streams)
	}()
	t.Cleanup(func() {
		cancel()
		typing.Close()
		in.Close()
		<-c.done
	})
	return c
}

func (c *client) types(t *testing.T, text string) {
	t.Helper()
	if _, err := io.WriteString(c.typing, text); err != nil {
		t.Fatalf("type %q: %v", text, err)
	}
}

func (c *client) sees(t *testing.T, text string) {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Logf("the client got %q", c.text())
		}
	}()
	harness.Eventually(t, "the client gets "+text, func() bool { return strings.Contains(c.text(), text) })
}

// Clients type to the application, not to the init; one that leaves changes nothing, and the end of the input is the
// application's too.
func clientsAttachToTheApplication(t *testing.T, n *harness.Node, m machine, ref string) {
	c := n.RunPod(t, pod(m.mode)).Run(t, "app", image(ref, "sh", "-c", "read x; echo got $x; read y; echo then $y >&2; cat; echo the end; exit 4"),
		func(c *runtime.ContainerConfig) { c.Stdin, c.StdinOnce = true, false })
	first := attach(t, c)
	first.types(t, "one\n")
	first.sees(t, "got one\n")
	first.leave()
	<-first.done
	second := attach(t, c)
	second.types(t, "two\nrest\n")
	second.sees(t, "then two\n")
	second.sees(t, "rest\n")
	if s := c.Status(t); s.State != runtime.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the container is %s", s.State)
	}
	second.leave()
	<-second.done
	c.Stop(t, 10)
	text, _ := c.Ended(t)
	for _, line := range []string{"got one\n", "then two\n", "rest\n"} {
		if !strings.Contains(text, line) || len(text) != len("got one\nthen two\nrest\n") {
			t.Errorf("log %q", text)
		}
	}

	once := n.RunPod(t, pod(m.mode)).Run(t, "app", image(ref, "sh", "-c", "cat; echo the end; exit 4"), func(c *runtime.ContainerConfig) { c.Stdin, c.StdinOnce = true, true })
	only := attach(t, once)
	only.types(t, "text\n")
	only.sees(t, "text\n")
	only.typing.Close()
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
	first := attach(t, c)
	first.sizes <- remote.Size{Width: 123, Height: 45}
	hasSize(t, c, "45 123")
	first.types(t, "tty; stty size; echo $TERM\n")
	first.sees(t, "45 123\n")
	first.sees(t, "xterm\n")
	first.leave()
	<-first.done
	second := attach(t, c)
	second.sizes <- remote.Size{Width: 77, Height: 33}
	hasSize(t, c, "33 77")
	second.types(t, "stty size\n")
	second.sees(t, "33 77\n")
	second.types(t, "sleep 1000\n")
	harness.Eventually(t, "the shell's command runs", func() bool {
		code, _ := exec(t, c, "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -q 'sleep 100[0]'")
		return code == 0
	})
	second.types(t, "\x03")
	second.types(t, "exit 6\n")
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
