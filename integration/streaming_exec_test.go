package integration

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/cmd/cri-pouch/remote"
	"github.com/cri-pouch/cri-pouch/integration/harness"
)

func TestExec(t *testing.T) {
	metrics, address := metricsOption(t)
	n := harness.Start(t, metrics)
	c := n.RunPod(t).Run(t, "app")
	t.Run("streams stay apart and the exit code comes back", func(t *testing.T) {
		s := c.OpenExec(t, false, "sh", "-c", "echo out; echo err >&2; exit 42")
		if code, err := s.End(t); err != nil || code != 42 || s.Out.String() != "out\n" || s.Err.String() != "err\n" {
			t.Errorf("code %d, %v, %q, %q", code, err, s.Out, s.Err)
		}
	})
	t.Run("a signal's exit code", func(t *testing.T) {
		s := c.OpenExec(t, false, "sh", "-c", "kill -TERM $$")
		if code, err := s.End(t); err != nil || code != 143 {
			t.Errorf("code %d, %v", code, err)
		}
	})
	t.Run("stdin half-closed", func(t *testing.T) {
		s := c.OpenExec(t, false, "sh", "-c", "cat; echo after the end; exit 3")
		s.Send(t, "line\n")
		s.Await(t, "line\n")
		s.In.Close()
		if code, err := s.End(t); err != nil || code != 3 || s.Out.String() != "line\nafter the end\n" {
			t.Errorf("code %d, %v, %q", code, err, s.Out)
		}
	})
	t.Run("a terminal with its sizes", func(t *testing.T) {
		s := c.OpenExec(t, true, "sh")
		s.Sizes <- remote.Size{Width: 101, Height: 37}
		s.Send(t, "tty; stty size\n")
		s.Await(t, "/dev/pts/")
		// The first size may come after the first command: asking again is what a user sees.
		harness.Eventually(t, "the terminal has the size", func() bool {
			s.Send(t, "stty size\n")
			return strings.Contains(s.Out.String(), "37 101")
		})
		s.Sizes <- remote.Size{Width: 66, Height: 22}
		harness.Eventually(t, "the terminal has the new size", func() bool {
			s.Send(t, "stty size\n")
			return strings.Contains(s.Out.String(), "22 66")
		})
		s.Send(t, "echo -e 'bye\\tbye'; exit 7\n")
		if code, err := s.End(t); err != nil || code != 7 || !strings.Contains(s.Out.String(), "bye\tbye\r\n") {
			t.Errorf("code %d, %v, %q", code, err, s.Out)
		}
	})
	t.Run("output up to the last byte", func(t *testing.T) {
		s := c.OpenExec(t, false, "sh", "-c", "seq 1 200000; echo the end")
		if _, err := s.End(t); err != nil || !strings.HasSuffix(s.Out.String(), "200000\nthe end\n") {
			t.Errorf("%v, %d bytes", err, len(s.Out.String()))
		}
	})
	t.Run("a command that does not wait for what is sent to it", func(t *testing.T) {
		s := c.OpenExec(t, false, "sh", "-c", "echo early; exit 5")
		go func() {
			for {
				if _, err := s.In.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		}()
		if code, err := s.End(t); err != nil || code != 5 || s.Out.String() != "early\n" {
			t.Errorf("code %d, %v, %q", code, err, s.Out)
		}
	})
	t.Run("children that stay do not hold the stream", func(t *testing.T) {
		s := c.OpenExec(t, false, "sh", "-c", "sleep 98764 & echo $!")
		code, err := s.End(t)
		if err != nil || code != 0 {
			t.Errorf("code %d, %v, %q", code, err, s.Out)
		}
		c.Exec(t, "kill", strings.TrimSpace(s.Out.String()))
	})
	t.Run("missing program", func(t *testing.T) {
		s := c.OpenExec(t, false, "/no/such/program")
		if code, err := s.End(t); err == nil || !strings.Contains(err.Error(), "/no/such/program") {
			t.Errorf("code %d, %v", code, err)
		}
	})
	nothingIsLeft(t, n, address)
}

func TestExecClientVanishes(t *testing.T) {
	metrics, address := metricsOption(t)
	n := harness.Start(t, metrics)
	c := n.RunPod(t).Run(t, "app")
	for name, tc := range map[string]struct {
		tty    bool
		script string
		before func(t *testing.T, s *harness.Stream)
	}{
		"while it is silent":                      {script: "echo begun; sleep 98765 & sleep 98765"},
		"on a terminal":                           {tty: true, script: "echo begun; sleep 98765 & sleep 98765"},
		"while it writes":                         {script: "echo begun; while :; do echo 98765; done"},
		"while it ignores signals":                {script: "trap '' HUP TERM INT PIPE; echo begun; while :; do sleep 98765; done"},
		"with unread stdin on a way":              {script: "echo begun; sleep 98765", before: func(t *testing.T, s *harness.Stream) { flood(s) }},
		"with a terminal's unread stdin on a way": {tty: true, script: "stty raw; echo begun; sleep 98765", before: func(t *testing.T, s *harness.Stream) { flood(s) }},
	} {
		t.Run(name, func(t *testing.T) {
			s := c.OpenExec(t, tc.tty, "sh", "-c", tc.script)
			s.Await(t, "begun")
			if tc.before != nil {
				tc.before(t, s)
			}
			s.Leave()
			harness.Eventually(t, "the command and its children are killed", func() bool {
				return !strings.Contains(c.Exec(t, "ps", "-o", "args"), "9876")
			})
		})
	}
	nothingIsLeft(t, n, address)
}

// flood sends until nobody takes it any more.
func flood(s *harness.Stream) {
	blocked := make(chan struct{})
	go func() {
		defer close(blocked)
		for {
			if _, err := s.In.Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
	}()
	select {
	case <-blocked:
	case <-time.After(500 * time.Millisecond): // long enough for all buffers of a loopback connection to be full
	}
}

func TestExecInParallel(t *testing.T) {
	metrics, address := metricsOption(t)
	n := harness.Start(t, metrics)
	c := n.RunPod(t).Run(t, "app")
	var wg sync.WaitGroup
	var streams []*harness.Stream
	for i := range 30 {
		s := c.OpenExec(t, i%3 == 0, "sh", "-c", fmt.Sprintf("read x; echo got $x; exit %d", i))
		streams = append(streams, s)
		wg.Go(func() {
			if _, err := fmt.Fprintf(s.In, "%d\n", i); err != nil {
				t.Error(err)
			}
		})
	}
	for i, s := range streams {
		if code, err := s.End(t); err != nil || code != i || !strings.Contains(s.Out.String(), fmt.Sprintf("got %d", i)) {
			t.Errorf("exec %d: code %d, %v, %q", i, code, err, s.Out)
		}
	}
	wg.Wait()
	nothingIsLeft(t, n, address)
}

func TestExecCarriesMuch(t *testing.T) {
	n := harness.Start(t)
	c := n.RunPod(t).Run(t, "app")
	const size = 100 << 20
	sum := sha256.New()
	in := io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{1}), size), sum)
	out := sha256.New()
	code, err := remote.Run(harness.Context(t), c.ExecURL(t, false, "cat"), remote.Streams{In: in, Out: out, Err: io.Discard})
	if err != nil || code != 0 {
		t.Fatalf("code %d, %v", code, err)
	}
	if a, b := sum.Sum(nil), out.Sum(nil); string(a) != string(b) {
		t.Errorf("%x was sent, %x came back", a, b)
	}
}

// A client that reads nothing blocks its own command and nobody else.
func TestExecClientStopsReading(t *testing.T) {
	metrics, address := metricsOption(t)
	n := harness.Start(t, metrics)
	p := n.RunPod(t)
	c := p.Run(t, "app")
	stuck := make(chan struct{})
	var ends []func() (int, error)
	for _, tty := range []bool{false, true} {
		_, end := readNothing(t, c.ExecURL(t, tty, "sh", "-c", "while :; do echo 98765; done"), tty, stuck)
		ends = append(ends, end)
	}
	time.Sleep(harness.Patience(2 * time.Second)) // nothing tells when all buffers are full
	begin := time.Now()
	if code, err := c.OpenExec(t, false, "true").End(t); err != nil || code != 0 {
		t.Errorf("another exec: %d, %v", code, err)
	}
	c.Exec(t, "true")
	c.Stop(t, 0)
	if took := time.Since(begin); took > harness.Patience(harness.LongEnough) {
		t.Errorf("the others took %s", took)
	}
	c.Remove(t)
	close(stuck)
	for _, end := range ends {
		if code, err := end(); err == nil && code == 0 {
			t.Error("the command of a killed container ended well")
		}
	}
	nothingIsLeft(t, n, address)
}

// readNothing connects a client to the URL of an exec or attach that reads nothing before stuck is closed. end waits for the
// end of its stream.
func readNothing(t *testing.T, url string, tty bool, stuck chan struct{}) (typing *io.PipeWriter, end func() (code int, err error)) {
	t.Helper()
	in, typing := io.Pipe()
	t.Cleanup(func() { typing.Close() })
	streams := remote.Streams{In: in, Out: stuckWriter(stuck), TTY: tty}
	if !tty {
		streams.Err = io.Discard
	}
	var code int
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		code, err = remote.Run(t.Context(), url, streams)
	}()
	return typing, func() (int, error) {
		t.Helper()
		select {
		case <-done:
		case <-harness.Context(t).Done():
			t.Fatal("the stream did not end")
		}
		return code, err
	}
}

// stuckWriter takes nothing before it is closed, then everything.
type stuckWriter chan struct{}

func (w stuckWriter) Write(p []byte) (int, error) {
	<-w
	return len(p), nil
}

func TestStreamTokenIsGoodOnce(t *testing.T) {
	n := harness.Start(t)
	c := n.RunPod(t).Run(t, "app")
	url := c.ExecURL(t, false, "true")
	if code, err := harness.OpenStream(t, url, true, false).End(t); err != nil || code != 0 {
		t.Fatalf("the first use: %d, %v", code, err)
	}
	if _, err := harness.OpenStream(t, url, true, false).End(t); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("the second use: %v", err)
	}
	attach := strings.Replace(c.ExecURL(t, false, "true"), "/exec/", "/attach/", 1)
	if _, err := harness.OpenStream(t, attach, true, false).End(t); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("an exec's token for an attach: %v", err)
	}
	for _, path := range []string{"", "exec/", "exec/none", "none/none"} {
		resp, err := http.Post(url[:strings.Index(url, "/exec/")+1]+path, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		http.DefaultClient.CloseIdleConnections()
		if resp.StatusCode != http.StatusNotFound {
			t.Errorf("%q: %s", path, resp.Status)
		}
	}
}

func TestExecBadInput(t *testing.T) {
	n := harness.Start(t)
	p := n.RunPod(t)
	running, created := p.Run(t, "running"), p.Create(t, "created")
	for name, tc := range map[string]struct {
		r    *runtime.ExecRequest
		code codes.Code
	}{
		"no container":        {&runtime.ExecRequest{Cmd: []string{"true"}, Stdout: true}, codes.InvalidArgument},
		"unknown container":   {&runtime.ExecRequest{ContainerId: "none", Cmd: []string{"true"}, Stdout: true}, codes.NotFound},
		"not running":         {&runtime.ExecRequest{ContainerId: created.ID, Cmd: []string{"true"}, Stdout: true}, codes.FailedPrecondition},
		"no command":          {&runtime.ExecRequest{ContainerId: running.ID, Stdout: true}, codes.InvalidArgument},
		"no stream":           {&runtime.ExecRequest{ContainerId: running.ID, Cmd: []string{"true"}}, codes.InvalidArgument},
		"terminal and stderr": {&runtime.ExecRequest{ContainerId: running.ID, Cmd: []string{"true"}, Stdout: true, Stderr: true, Tty: true}, codes.InvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := n.Daemon.Runtime.Exec(harness.Context(t), tc.r)
			wantCode(t, err, tc.code)
		})
	}
}
