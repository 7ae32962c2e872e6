package integration

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/cmd/cri-pouch/remote"
	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// execURL asks for an exec with all of the streams.
func execURL(t testing.TB, c *harness.Container, tty bool, argv ...string) string {
	t.Helper()
	r, err := c.Pod.Node.Daemon.Runtime.Exec(harness.Context(t), &runtime.ExecRequest{
		ContainerId: c.ID, Cmd: argv, Tty: tty, Stdin: true, Stdout: true, Stderr: !tty,
	})
	if err != nil {
		t.Fatalf("Exec: %v", err)
	}
	return r.Url
}

// attachURL asks for an attach.
func attachURL(t testing.TB, c *harness.Container, stdin bool) string {
	t.Helper()
	r, err := c.Pod.Node.Daemon.Runtime.Attach(harness.Context(t), &runtime.AttachRequest{
		ContainerId: c.ID, Tty: c.Config.Tty, Stdin: stdin, Stdout: true, Stderr: !c.Config.Tty,
	})
	if err != nil {
		t.Fatalf("Attach: %v", err)
	}
	return r.Url
}

// buffer is an output that a test looks at while it grows.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// session is a client of an exec or attach.
type session struct {
	In       *io.PipeWriter
	Out, Err *buffer
	Sizes    chan remote.Size
	leave    context.CancelFunc // makes the client vanish
	done     chan struct{}
	code     int
	err      error
}

// open connects a client whose stdin, output and terminal the test has in hand.
func open(t testing.TB, url string, stdin, tty bool) *session {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	in, typing := io.Pipe()
	s := &session{In: typing, Out: &buffer{}, Err: &buffer{}, Sizes: make(chan remote.Size), leave: cancel, done: make(chan struct{})}
	streams := remote.Streams{Out: s.Out, TTY: tty, Sizes: s.Sizes}
	if stdin {
		streams.In = in
	}
	if !tty {
		streams.Err = s.Err
	}
	go func() {
		defer close(s.done)
		s.code, s.err = remote.Run(ctx, url, streams)
	}()
	t.Cleanup(func() {
		cancel()
		typing.Close()
		in.Close()
		<-s.done
	})
	return s
}

func openExec(t testing.TB, c *harness.Container, tty bool, argv ...string) *session {
	t.Helper()
	return open(t, execURL(t, c, tty, argv...), true, tty)
}

// send types text.
func (s *session) send(t testing.TB, text string) {
	t.Helper()
	if _, err := io.WriteString(s.In, text); err != nil {
		t.Fatalf("send %q: %v", text, err)
	}
}

// await waits until the output holds text.
func (s *session) await(t testing.TB, text string) {
	t.Helper()
	harness.Eventually(t, fmt.Sprintf("the client gets %q", text), func() bool {
		select {
		case <-s.done:
			if !strings.Contains(s.Out.String(), text) {
				t.Fatalf("the stream ended (code %d, %v) without %q: %q %q", s.code, s.err, text, s.Out, s.Err)
			}
		default:
		}
		return strings.Contains(s.Out.String(), text)
	})
}

// end waits for the end of the stream.
func (s *session) end(t testing.TB) (code int, err error) {
	t.Helper()
	select {
	case <-s.done:
	case <-harness.Context(t).Done():
		t.Fatalf("the stream did not end; output %q %q", s.Out, s.Err)
	}
	return s.code, s.err
}

// metricsOption gives a node whose daemon tells its figures, and where.
func metricsOption(t testing.TB) (harness.Option, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	address := l.Addr().String()
	return harness.Config(fmt.Sprintf("[metrics]\naddress = %q\npprof = true\n", address)), address
}

// goroutines gives the stacks of the daemon's goroutines that have text in them.
func goroutines(t testing.TB, address, text string) (found []string) {
	t.Helper()
	r, err := http.NewRequestWithContext(harness.Context(t), http.MethodGet, "http://"+address+"/debug/pprof/goroutine?debug=2", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Close = true // a connection that waits for more would be a descriptor of the daemon
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, stack := range strings.Split(string(b), "\n\n") {
		if strings.Contains(stack, text) {
			found = append(found, stack)
		}
	}
	return found
}

// nothingIsLeft waits until no goroutine of the daemon, no FIFO and no descriptor of a stream is there any more. The node's
// own leak check counts the sockets.
func nothingIsLeft(t testing.TB, n *harness.Node, address string) {
	t.Helper()
	var stacks, fifos, files []string
	defer func() {
		if t.Failed() {
			t.Logf("FIFOs %q\ndescriptors %q\ngoroutines %s", fifos, files, strings.Join(stacks, "\n\n"))
		}
	}()
	harness.Eventually(t, "nothing of the streams is left", func() bool {
		stacks = nil
		for _, part := range []string{"StreamBackend", "spdystream", "wsstream", "cri.(*inPipe)", "cri.(*outPipe)", "cri/stream.(*Server).ServeHTTP"} {
			stacks = append(stacks, goroutines(t, address, part)...)
		}
		fifos, _ = filepath.Glob(filepath.Join(n.StateDir(), "exec/*"))
		files = streamFiles(n.Daemon.PID())
		shims, _ := n.Daemon.Shims()
		for _, pid := range shims {
			files = append(files, streamFiles(pid)...)
		}
		return len(stacks) == 0 && len(fifos) == 0 && len(files) == 0
	})
}

// streamFiles gives a process's descriptors of stream FIFOs.
func streamFiles(pid int) (found []string) {
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if to, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil && strings.Contains(to, "/exec/") {
			found = append(found, fmt.Sprintf("%d: %s", pid, to))
		}
	}
	return found
}
