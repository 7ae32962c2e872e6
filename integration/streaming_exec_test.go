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
		s := openExec(t, c, false, "sh", "-c", "echo out; echo err >&2; exit 42")
		if code, err := s.end(t); err != nil || code != 42 || s.Out.String() != "out\n" || s.Err.String() != "err\n" {
			t.Errorf("code %d, %v, %q, %q", code, err, s.Out, s.Err)
		}
	})
	t.Run("a signal's exit code", func(t *testing.T) {
		s := openExec(t, c, false, "sh", "-c", "kill -TERM $$")
		if code, err := s.end(t); err != nil || code != 143 {
			t.Errorf("code %d, %v", code, err)
		}
	})
	t.Run("stdin half-closed", func(t *testing.T) {
		s := openExec(t, c, false, "sh", "-c", "cat; echo after the end; exit 3")
		s.send(t, "line\n")
		s.await(t, "line\n")
		s.In.Close()
		if code, err := s.end(t); err != nil || code != 3 || s.Out.String() != "line\nafter the end\n" {
			t.Errorf("code %d, %v, %q", code, err, s.Out)
		}
	})
	t.Run("a terminal with its sizes", func(t *testing.T) {
		s := openExec(t, c, true, "sh")
		s.Sizes <- remote.Size{Width: 101, Height: 37}
		s.send(t, "tty; stty size\n")
		s.await(t, "/dev/pts/")
		// The first size may come after the first command: asking again is what a user sees.
		harness.Eventually(t, "the terminal has the size", func() bool {
			s.send(t, "stty size\n")
			return strings.Contains(s.Out.String(), "37 101")
		})
		s.Sizes <- remote.Size{Width: 66, Height: 22}
		harness.Eventually(t, "the terminal has the new size", func() bool {
			s.send(t, "stty size\n")
			return strings.Contains(s.Out.String(), "22 66")
		})
		s.send(t, "echo -e 'bye\\tbye'; exit 7\n")
		if code, err := s.end(t); err != nil || code != 7 || !strings.Contains(s.Out.String(), "bye\tbye\r\n") {
			t.Errorf("code %d, %v, %q", code, err, s.Out)
		}
	})
	t.Run("output up to the last byte", func(t *testing.T) {
		s := openExec(t, c, false, "sh", "-c", "seq 1 200000; echo the end")
		if _, err := s.end(t); err != nil || !strings.HasSuffix(s.Out.String(), "200000\nthe end\n") {
			t.Errorf("%v, %d bytes", err, len(s.Out.String()))
		}
	})
	t.Run("a command that does not wait for what is sent to it", func(t *testing.T) {
		s := openExec(t, c, false, "sh", "-c", "echo early; exit 5")
		go func() {
			for {
				if _, err := s.In.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		}()
		if code, err := s.end(t); err != nil || code != 5 || s.Out.String() != "early\n" {
			t.Errorf("code %d, %v, %q", code, err, s.Out)
		}
	})
	t.Run("children that stay do not hold the stream", func(t *testing.T) {
		s := openExec(t, c, false, "sh", "-c", "sleep 98764 & echo $!")
		code, err := s.end(t)
		if err != nil || code != 0 {
			t.Errorf("code %d, %v, %q", code, err, s.Out)
		}
		c.Exec(t, "kill", strings.TrimSpace(s.Out.String()))
	})
	t.Run("missing program", func(t *testing.T) {
		s := openExec(t, c, false, "/no/such/program")
		if code, err := s.end(t); err == nil || !strings.Contains(err.Error(), "/no/such/program") {
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
		before func(t *testing.T, s *session)
	}{
		"while it is silent":                      {script: "echo begun; sleep 98765 & sleep 98765"},
		"on a terminal":                           {tty: true, script: "echo begun; sleep 98765 & sleep 98765"},
		"while it writes":                         {script: "echo begun; while :; do echo 98765; done"},
		"while it ignores signals":                {script: "trap '' HUP TERM INT PIPE; echo begun; while :; do sleep 98765; done"},
		"with unread stdin on a way":              {script: "echo begun; sleep 98765", before: func(t *testing.T, s *session) { flood(s) }},
		"with a terminal's unread stdin on a way": {tty: true, script: "stty raw; echo begun; sleep 98765", before: func(t *testing.T, s *session) { flood(s) }},
	} {
		t.Run(name, func(t *testing.T) {
			s := openExec(t, c, tc.tty, "sh", "-c", tc.script)
			s.await(t, "begun")
			if tc.before != nil {
				tc.before(t, s)
			}
			s.leave()
			harness.Eventually(t, "the command and its children are killed", func() bool {
				return !strings.Contains(c.Exec(t, "ps", "-o", "args"), "9876")
			})
		})
	}
	nothingIsLeft(t, n, address)
}

// flood sends until nobody takes it any more.
func flood(s *session) {
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
	for i := range 30 {
		s := openExec(t, c, i%3 == 0, "sh", "-c", fmt.Sprintf("read x; echo got $x; exit %d", i))
		wg.Go(func() {
			if _, err := fmt.Fprintf(s.In, "%d\n", i); err != nil {
				t.Error(err)
			}
			<-s.done
			if s.err != nil || s.code != i || !strings.Contains(s.Out.String(), fmt.Sprintf("got %d", i)) {
				t.Errorf("exec %d: code %d, %v, %q", i, s.code, s.err, s.Out)
			}
		})
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
	code, err := remote.Run(harness.Context(t), execURL(t, c, false, "cat"), remote.Streams{In: in, Out: out, Err: io.Discard})
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
	var sessions []*session
	for _, tty := range []bool{false, true} {
		in, typing := io.Pipe()
		s := &session{In: typing, done: make(chan struct{})}
		url := execURL(t, c, tty, "sh", "-c", "while :; do echo 98765; done")
		go func() {
			defer close(s.done)
			streams := remote.Streams{In: in, Out: stuckWriter(stuck), TTY: tty}
			if !tty {
				streams.Err = io.Discard
			}
			s.code, s.err = remote.Run(t.Context(), url, streams)
		}()
		t.Cleanup(func() { typing.Close() })
		sessions = append(sessions, s)
	}
	time.Sleep(harness.Patience(2 * time.Second)) // nothing tells when all buffers are full
	begin := time.Now()
	if code, err := openExec(t, c, false, "true").end(t); err != nil || code != 0 {
		t.Errorf("another exec: %d, %v", code, err)
	}
	c.Exec(t, "true")
	c.Stop(t, 0)
	if took := time.Since(begin); took > harness.Patience(8*time.Second) {
		t.Errorf("the others took %s", took)
	}
	c.Remove(t)
	close(stuck)
	for _, s := range sessions {
		if code, err := s.end(t); err == nil && code == 0 {
			t.Error("the command of a killed container ended well")
		}
	}
	nothingIsLeft(t, n, address)
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
	url := execURL(t, c, false, "true")
	if code, err := open(t, url, true, false).end(t); err != nil || code != 0 {
		t.Fatalf("the first use: %d, %v", code, err)
	}
	if _, err := open(t, url, true, false).end(t); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("the second use: %v", err)
	}
	attach := strings.Replace(execURL(t, c, false, "true"), "/exec/", "/attach/", 1)
	if _, err := open(t, attach, true, false).end(t); err == nil || !strings.Contains(err.Error(), "404") {
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
