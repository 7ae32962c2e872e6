package integration

import (
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/cmd/cri-pouch/remote"
	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// withStdin gives a container an open stdin.
func withStdin(once bool) func(*runtime.ContainerConfig) {
	return func(c *runtime.ContainerConfig) { c.Stdin, c.StdinOnce = true, once }
}

func withTerminal(c *runtime.ContainerConfig) { c.Tty = true }

// answers waits until the client is attached: what it sends comes back.
func answers(t testing.TB, s *harness.Stream, text string) {
	t.Helper()
	s.Send(t, text+"\n")
	s.Await(t, "got "+text)
}

const answering = "while read x; do echo got $x; echo oops $x >&2; done; echo the end; exit 9"

func TestAttach(t *testing.T) {
	metrics, address := metricsOption(t)
	n := harness.Start(t, metrics)
	p := n.RunPod(t)
	t.Run("several at once, and the log goes on", func(t *testing.T) {
		c := p.Run(t, "several", harness.Sh(answering), withStdin(false))
		a, b := c.OpenAttach(t), c.OpenAttach(t)
		answers(t, a, "one")
		answers(t, b, "two")
		a.Await(t, "got two")
		b.In.Close() // of one client is not of the container
		answers(t, a, "three")
		a.Leave()
		b.Await(t, "got three")
		c.AwaitLog(t, "got three")
		d := c.OpenAttach(t)
		answers(t, d, "four")
		if !strings.Contains(b.Err.String(), "oops three\n") {
			t.Errorf("stderr has %q", b.Err)
		}
		c.Stop(t, 0)
		for _, s := range []*harness.Stream{b, d} {
			if code, err := s.End(t); err != nil || code != 0 {
				t.Errorf("at the container's end: %d, %v", code, err)
			}
		}
		if text := c.LogText(t); !strings.Contains(text, "got one\n") || !strings.Contains(text, "got four\n") {
			t.Errorf("the log has %q", text)
		}
	})
	t.Run("stdin once", func(t *testing.T) {
		c := p.Run(t, "once", harness.Sh(answering), withStdin(true))
		a := c.OpenAttach(t)
		answers(t, a, "one")
		a.In.Close()
		if _, err := a.End(t); err != nil || !strings.HasSuffix(a.Out.String(), "the end\n") {
			t.Errorf("%v, %q", err, a.Out)
		}
		if _, code := c.Ended(t); code != 9 {
			t.Errorf("the container ended with %d", code)
		}
	})
	t.Run("stdin once, the client vanishes", func(t *testing.T) {
		c := p.Run(t, "once-gone", harness.Sh(answering), withStdin(true))
		a := c.OpenAttach(t)
		answers(t, a, "one")
		a.Leave()
		if _, code := c.Ended(t); code != 9 {
			t.Errorf("the container ended with %d", code)
		}
	})
	t.Run("a terminal", func(t *testing.T) {
		c := p.Run(t, "tty", harness.Command("sh"), withStdin(false), withTerminal)
		a := c.OpenAttach(t)
		a.Sizes <- remote.Size{Width: 111, Height: 44}
		harness.Eventually(t, "the terminal has the size", func() bool {
			a.Send(t, "stty size\n")
			return strings.Contains(a.Out.String(), "44 111")
		})
		b := c.OpenAttach(t)
		b.Send(t, "echo shared-$((40+2))\n")
		a.Await(t, "shared-42")
		b.Leave()
		a.Send(t, "exit 5\n")
		if _, err := a.End(t); err != nil {
			t.Error(err)
		}
		if _, code := c.Ended(t); code != 5 {
			t.Errorf("the container ended with %d", code)
		}
	})
	t.Run("output only", func(t *testing.T) {
		c := p.Run(t, "mute", harness.Sh("while :; do echo tick; usleep 20000; done"))
		a := c.OpenAttach(t)
		a.Await(t, "tick\ntick\n")
		a.Leave()
		c.Stop(t, 0)
	})
	nothingIsLeft(t, n, address)
}

// Neither container nor log waits for an attached client that reads nothing, and the client gets to know.
func TestAttachClientStopsReading(t *testing.T) {
	metrics, address := metricsOption(t)
	n := harness.Start(t, metrics)
	p := n.RunPod(t)
	for name, edits := range map[string][]func(*runtime.ContainerConfig){"pipes": nil, "terminal": {withTerminal}} {
		t.Run(name, func(t *testing.T) {
			// More than all buffers on the way can hold.
			c := p.Run(t, name, append(edits, harness.Sh("read x; head -c 25000000 /dev/zero | tr '\\0' x; echo; echo all written"), withStdin(false))...)
			stuck := make(chan struct{})
			typing, end := readNothing(t, c.AttachURL(t), c.Config.Tty, stuck)
			if _, err := io.WriteString(typing, "go\n"); err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			c.Ended(t)
			if took := time.Since(begin); took > harness.Patience(harness.LongEnough) {
				t.Errorf("the container took %s", took)
			}
			if text := c.LogText(t); !strings.Contains(text, "all written") {
				t.Errorf("the log ends with %q", text[max(0, len(text)-100):])
			}
			close(stuck)
			if _, err := end(); err == nil || !strings.Contains(err.Error(), "too slowly") {
				t.Errorf("the client was told %v", err)
			}
		})
	}
	nothingIsLeft(t, n, address)
}

// CVE-2025-64329: clients that attach and vanish must leave nothing in the daemon, nor in the shim.
func TestAttachClientsVanish(t *testing.T) {
	metrics, address := metricsOption(t)
	n := harness.Start(t, metrics)
	c := n.RunPod(t).Run(t, "app", withStdin(false))
	before := len(goroutines(t, address, "goroutine "))
	for range 30 {
		s := c.OpenAttach(t)
		s.Send(t, strings.Repeat("nobody reads this\n", 10_000))
		s.Leave()
		s.End(t)
	}
	nothingIsLeft(t, n, address)
	harness.Eventually(t, "the daemon has no more goroutines than before", func() bool {
		return len(goroutines(t, address, "goroutine ")) <= before
	})
	c.Stop(t, 0)
}

func TestAttachBadInput(t *testing.T) {
	n := harness.Start(t)
	p := n.RunPod(t)
	running, created, ended := p.Run(t, "running"), p.Create(t, "created"), p.Run(t, "ended", harness.Command("true"))
	ended.Ended(t)
	for name, tc := range map[string]struct {
		r    *runtime.AttachRequest
		code codes.Code
	}{
		"no container":                   {&runtime.AttachRequest{Stdout: true}, codes.InvalidArgument},
		"unknown container":              {&runtime.AttachRequest{ContainerId: "none", Stdout: true}, codes.NotFound},
		"not running yet":                {&runtime.AttachRequest{ContainerId: created.ID, Stdout: true}, codes.FailedPrecondition},
		"not running any more":           {&runtime.AttachRequest{ContainerId: ended.ID, Stdout: true}, codes.FailedPrecondition},
		"no stream":                      {&runtime.AttachRequest{ContainerId: running.ID}, codes.InvalidArgument},
		"terminal and stderr":            {&runtime.AttachRequest{ContainerId: running.ID, Stdout: true, Stderr: true, Tty: true}, codes.InvalidArgument},
		"stdin where there is none":      {&runtime.AttachRequest{ContainerId: running.ID, Stdin: true, Stdout: true}, codes.FailedPrecondition},
		"a terminal where there is none": {&runtime.AttachRequest{ContainerId: running.ID, Stdout: true, Tty: true}, codes.FailedPrecondition},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := n.Daemon.Runtime.Attach(harness.Context(t), tc.r)
			wantCode(t, err, tc.code)
		})
	}
}
