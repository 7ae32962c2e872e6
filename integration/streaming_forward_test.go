package integration

import (
	"bytes"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/cmd/cri-pouch/remote"
	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// listenIn listens inside a pod and gives each connection to serve.
func listenIn(t testing.TB, p *harness.Pod, address string, serve func(*net.TCPConn)) uint16 {
	t.Helper()
	var l net.Listener
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		goruntime.LockOSThread() // for good: the thread ends with the goroutine
		var f *os.File
		if f, err = os.Open(filepath.Join(p.Node.StateDir(), "ns", p.ID, "net")); err != nil {
			return
		}
		defer f.Close()
		if err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err == nil {
			l, err = net.Listen("tcp", address)
		}
	}()
	<-done
	if err != nil {
		t.Fatalf("listen in the pod: %v", err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				serve(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

// echo sends back everything, then a word of its own.
func echo(c *net.TCPConn) {
	_, _ = io.Copy(c, c)
	_, _ = io.WriteString(c, "bye")
}

func forward(t testing.TB, p *harness.Pod) *remote.Tunnel {
	t.Helper()
	r, err := p.Node.Daemon.Runtime.PortForward(harness.Context(t), &runtime.PortForwardRequest{PodSandboxId: p.ID})
	if err != nil {
		t.Fatalf("PortForward: %v", err)
	}
	tunnel, err := remote.Forward(harness.Context(t), r.Url)
	if err != nil {
		t.Fatalf("open the tunnel: %v", err)
	}
	t.Cleanup(func() { tunnel.Close() })
	return tunnel
}

// connect gives a connection through the tunnel; failed gets what the daemon says of it.
func connect(t testing.TB, tunnel *remote.Tunnel, port uint16) (c *net.TCPConn, failed chan error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	failed = make(chan error, 1)
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	local, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	go func() { failed <- tunnel.Connect(local, port) }()
	_ = conn.SetDeadline(time.Now().Add(harness.Patience(2 * harness.LongEnough)))
	return conn.(*net.TCPConn), failed
}

func TestPortForward(t *testing.T) {
	metrics, address := metricsOption(t)
	n := harness.Start(t, metrics)
	p := n.RunPod(t)
	t.Run("to 127.0.0.1, half-closed", func(t *testing.T) {
		c, failed := connect(t, forward(t, p), listenIn(t, p, "127.0.0.1:0", echo))
		if _, err := io.WriteString(c, "hello "); err != nil {
			t.Fatal(err)
		}
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(c)
		if err != nil || string(b) != "hello bye" {
			t.Errorf("%q, %v", b, err)
		}
		if err := <-failed; err != nil {
			t.Error(err)
		}
	})
	t.Run("to ::1 where nobody listens at 127.0.0.1", func(t *testing.T) {
		c, _ := connect(t, forward(t, p), listenIn(t, p, "[::1]:0", echo))
		_ = c.CloseWrite()
		if b, err := io.ReadAll(c); err != nil || string(b) != "bye" {
			t.Errorf("%q, %v", b, err)
		}
	})
	t.Run("the pod ends it first", func(t *testing.T) {
		port := listenIn(t, p, "127.0.0.1:0", func(c *net.TCPConn) { _, _ = io.WriteString(c, "only words") })
		c, failed := connect(t, forward(t, p), port)
		if b, err := io.ReadAll(c); err != nil || string(b) != "only words" {
			t.Errorf("%q, %v", b, err)
		}
		if err := <-failed; err != nil {
			t.Error(err)
		}
	})
	t.Run("a broken connection leaves the others alone", func(t *testing.T) {
		tunnel := forward(t, p)
		good, _ := connect(t, tunnel, listenIn(t, p, "127.0.0.1:0", echo))
		broken, failed := connect(t, tunnel, listenIn(t, p, "127.0.0.1:0", func(c *net.TCPConn) { _ = c.SetLinger(0) }))
		if b, err := io.ReadAll(broken); err != nil || len(b) != 0 {
			t.Errorf("%q, %v", b, err)
		}
		if err := <-failed; err != nil {
			t.Error(err)
		}
		refused, failed := connect(t, tunnel, 1)
		if b, err := io.ReadAll(refused); err != nil || len(b) != 0 {
			t.Errorf("%q, %v", b, err)
		}
		if err := <-failed; err == nil || !strings.Contains(err.Error(), "refused") || !strings.Contains(err.Error(), "port 1 of sandbox") {
			t.Errorf("the refused one: %v", err)
		}
		_, _ = io.WriteString(good, "still ")
		_ = good.CloseWrite()
		if b, err := io.ReadAll(good); err != nil || string(b) != "still bye" {
			t.Errorf("%q, %v", b, err)
		}
	})
	t.Run("50 MB each way, and ten at once", func(t *testing.T) {
		port := listenIn(t, p, "127.0.0.1:0", func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
		tunnel := forward(t, p)
		var wg sync.WaitGroup
		for i := range 10 {
			size := int64(1 << 20)
			if i == 0 {
				size = 50 << 20
			}
			c, _ := connect(t, tunnel, port)
			wg.Go(func() {
				sent, got := sha256.New(), sha256.New()
				go func() {
					_, _ = io.Copy(c, io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{byte(i)}), size), sent))
					_ = c.CloseWrite()
				}()
				if n, err := io.Copy(got, c); err != nil || n != size || !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
					t.Errorf("connection %d: %d of %d bytes, %v", i, n, size, err)
				}
			})
		}
		wg.Wait()
	})
	nothingIsLeft(t, n, address)
}

func TestPortForwardClientVanishes(t *testing.T) {
	metrics, address := metricsOption(t)
	n := harness.Start(t, metrics)
	p := n.RunPod(t)
	for name, serve := range map[string]func(*net.TCPConn){
		"the pod is silent":     func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) },
		"the pod writes":        func(c *net.TCPConn) { _, _ = io.Copy(c, endless{}) },
		"the pod reads nothing": func(c *net.TCPConn) { awaitEnd(c) },
	} {
		t.Run(name, func(t *testing.T) {
			begun, ended := make(chan struct{}), make(chan struct{})
			port := listenIn(t, p, "127.0.0.1:0", func(c *net.TCPConn) {
				close(begun)
				serve(c)
				close(ended)
			})
			tunnel := forward(t, p)
			c, _ := connect(t, tunnel, port)
			<-begun
			_ = c.SetWriteDeadline(time.Now().Add(harness.Patience(300 * time.Millisecond)))
			_, _ = io.Copy(c, io.LimitReader(endless{}, 1<<20))
			_ = c.CloseWrite() // half-closed, so that the end of the stream alone tells nothing
			tunnel.Close()
			select {
			case <-ended:
			case <-harness.Context(t).Done():
				t.Error("the pod's connection stays")
			}
		})
	}
	nothingIsLeft(t, n, address)
}

// awaitEnd returns when the connection is reset, without reading it.
func awaitEnd(c *net.TCPConn) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	for code := 0; code == 0; time.Sleep(10 * time.Millisecond) {
		if err := raw.Control(func(fd uintptr) {
			fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
			if n, _ := unix.Poll(fds, 0); n > 0 {
				code = 1
			}
		}); err != nil {
			return
		}
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestPortForwardOnTheHostNetwork(t *testing.T) {
	n := harness.Start(t)
	p := n.RunPod(t, func(c *runtime.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions.Network = runtime.NamespaceMode_NODE
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			_, _ = io.WriteString(c, "the host")
			c.Close()
		}
	}()
	c, _ := connect(t, forward(t, p), uint16(l.Addr().(*net.TCPAddr).Port))
	if b, err := io.ReadAll(c); err != nil || string(b) != "the host" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestPortForwardBadInput(t *testing.T) {
	n := harness.Start(t)
	ready, stopped := n.RunPod(t), n.RunPod(t)
	if _, err := n.Daemon.Runtime.StopPodSandbox(harness.Context(t), &runtime.StopPodSandboxRequest{PodSandboxId: stopped.ID}); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		r    *runtime.PortForwardRequest
		code codes.Code
	}{
		"no pod":          {&runtime.PortForwardRequest{Port: []int32{80}}, codes.InvalidArgument},
		"unknown pod":     {&runtime.PortForwardRequest{PodSandboxId: "none"}, codes.NotFound},
		"not ready":       {&runtime.PortForwardRequest{PodSandboxId: stopped.ID}, codes.FailedPrecondition},
		"port 0":          {&runtime.PortForwardRequest{PodSandboxId: ready.ID, Port: []int32{80, 0}}, codes.InvalidArgument},
		"port 65536":      {&runtime.PortForwardRequest{PodSandboxId: ready.ID, Port: []int32{65536}}, codes.InvalidArgument},
		"a negative port": {&runtime.PortForwardRequest{PodSandboxId: ready.ID, Port: []int32{-1}}, codes.InvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := n.Daemon.Runtime.PortForward(harness.Context(t), tc.r)
			wantCode(t, err, tc.code)
		})
	}
	t.Run("the pod is stopped meanwhile", func(t *testing.T) {
		p := n.RunPod(t)
		tunnel := forward(t, p)
		if _, err := n.Daemon.Runtime.StopPodSandbox(harness.Context(t), &runtime.StopPodSandboxRequest{PodSandboxId: p.ID}); err != nil {
			t.Fatal(err)
		}
		c, failed := connect(t, tunnel, 80)
		if b, err := io.ReadAll(c); err != nil || len(b) != 0 {
			t.Errorf("%q, %v", b, err)
		}
		if err := <-failed; err == nil || !strings.Contains(err.Error(), "not ready") {
			t.Errorf("got %v", err)
		}
	})
}

// A pod has so many forwarded connections and no more; those of others are carried, and its own again when some are closed.
func TestPortForwardsOfAPodAreBounded(t *testing.T) {
	metrics, address := metricsOption(t)
	n := harness.Start(t, metrics)
	t.Run("256 connections", func(t *testing.T) { forwardMost(t, n.RunPod(t), n.RunPod(t)) })
	nothingIsLeft(t, n, address)
}

// forwardMost uses up what a pod may have.
func forwardMost(t *testing.T, p, bystander *harness.Pod) {
	const most = 256
	answers := func(c *net.TCPConn) string { // "" where the connection is not carried
		_, _ = io.WriteString(c, "x")
		b := make([]byte, 1)
		k, _ := c.Read(b)
		return string(b[:k])
	}
	ends := func(c *net.TCPConn) {
		t.Helper()
		_ = c.CloseWrite()
		if b, err := io.ReadAll(c); err != nil || string(b) != "bye" {
			t.Fatalf("the end of a connection: %q, %v", b, err)
		}
	}
	port, tunnel := listenIn(t, p, "127.0.0.1:0", echo), forward(t, p)
	var open []*net.TCPConn
	for i := range most {
		c, _ := connect(t, tunnel, port)
		if answers(c) != "x" {
			t.Fatalf("connection %d is not carried", i)
		}
		open = append(open, c)
	}
	more, failed := connect(t, tunnel, port)
	if answers(more) != "" {
		t.Fatal("one more is carried")
	}
	if err := <-failed; err == nil || !strings.Contains(err.Error(), "256 connections are forwarded already") || !strings.Contains(err.Error(), p.ID) {
		t.Errorf("one more: %v", err)
	}
	other, _ := connect(t, forward(t, bystander), listenIn(t, bystander, "127.0.0.1:0", echo))
	if answers(other) != "x" {
		t.Fatal("another pod's is not carried")
	}
	for _, c := range append(open, other) {
		ends(c)
	}
	harness.Eventually(t, "connections are carried again", func() bool {
		c, _ := connect(t, tunnel, port)
		if answers(c) != "x" {
			return false
		}
		ends(c)
		return true
	})
}
