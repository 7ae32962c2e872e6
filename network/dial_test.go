package network

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// onHost is a manager as far as pods on the host network need one.
func onHost() (*Manager, Pod) { return &Manager{}, Pod{ID: "p", HostNetwork: true} }

// accept serves one connection at an address and gives its port.
func accept(t *testing.T, address string, serve func(*net.TCPConn)) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Skipf("needs %s: %v", address, err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serve(c.(*net.TCPConn))
			c.Close()
		}
	}()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

func TestDial(t *testing.T) {
	m, pod := onHost()
	hello := func(c *net.TCPConn) { _, _ = io.WriteString(c, "hello") }
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		c, err := m.Dial(t.Context(), pod, accept(t, address, hello))
		if err != nil {
			t.Errorf("%s: %v", address, err)
			continue
		}
		if b, err := io.ReadAll(c); err != nil || string(b) != "hello" {
			t.Errorf("%s: %q, %v", address, b, err)
		}
		c.Close()
	}
}

// A server that resets its connections at once was connected to all the same.
func TestDialToWhatResets(t *testing.T) {
	m, pod := onHost()
	port := accept(t, "127.0.0.1:0", func(c *net.TCPConn) { _ = c.SetLinger(0) })
	for range 500 {
		c, err := m.Dial(t.Context(), pod, port)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(c); err != nil && !errors.Is(err, unix.ECONNRESET) {
			t.Fatal(err)
		}
		c.Close()
	}
}

func TestDialFails(t *testing.T) {
	m, pod := onHost()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	l.Close()
	if _, err := m.Dial(t.Context(), pod, port); !errdefs.IsUnavailable(err) || !errors.Is(err, unix.ECONNREFUSED) ||
		!strings.Contains(err.Error(), "127.0.0.1") || !strings.Contains(err.Error(), "::1") {
		t.Errorf("nobody listens: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.Dial(ctx, pod, port); !errors.Is(err, context.Canceled) {
		t.Errorf("the caller gave up before: %v", err)
	}
}

func TestDialIntoANamespaceThatIsGone(t *testing.T) {
	m := &Manager{o: Options{StateDir: t.TempDir()}}
	begin := time.Now()
	_, err := m.Dial(t.Context(), Pod{ID: "p"}, 80)
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "sandbox p") {
		t.Errorf("%v after %s", err, time.Since(begin))
	}
}
