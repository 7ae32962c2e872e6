package exhaustion

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

func TestIs(t *testing.T) {
	for _, err := range []error{unix.ENOMEM, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", unix.EMFILE)}, &os.PathError{Err: unix.ENOSPC}} {
		if !Is(err) {
			t.Errorf("%v is no exhaustion", err)
		}
	}
	for _, err := range []error{nil, io.EOF, unix.EPIPE, unix.ENOENT, net.ErrClosed} {
		if Is(err) {
			t.Errorf("%v is an exhaustion", err)
		}
	}
}

// A limit of no descriptors is the real thing: the kernel refuses each accept.
func TestAcceptOutlivesAWantOfDescriptors(t *testing.T) {
	l, log := listen(t)
	accepted := make(chan error, 1)
	dialled, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer dialled.Close()
	giveBack := takeDescriptors(t)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			conn.Close()
		}
		accepted <- err
	}()
	log.await(t, "cannot accept connections of the test")
	giveBack()
	if err := <-accepted; err != nil {
		t.Fatal(err)
	}
	log.await(t, "are accepted again")
	if n := strings.Count(log.String(), "cannot accept"); n != 1 {
		t.Errorf("one run of failures is logged %d times:\n%s", n, log.String())
	}
}

func TestCloseEndsAnAcceptThatWaits(t *testing.T) {
	l, log := listen(t)
	dialled, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer dialled.Close()
	giveBack := takeDescriptors(t)
	accepted := make(chan error, 1)
	go func() { _, err := l.Accept(); accepted <- err }()
	log.await(t, "cannot accept")
	l.Close()
	if err := <-accepted; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept gave %v", err)
	}
	giveBack()
}

// pressed is a connection whose kernel has no memory for every other call, and takes three bytes in the others.
type pressed struct {
	net.Conn
	calls int
}

func (p *pressed) Read(b []byte) (int, error) {
	if p.calls++; p.calls%2 == 1 {
		return 0, os.NewSyscallError("read", unix.ENOMEM)
	}
	return p.Conn.Read(b)
}

func (p *pressed) Write(b []byte) (int, error) {
	p.calls++
	n, err := p.Conn.Write(b[:min(len(b), 3)])
	if err == nil && n < len(b) {
		err = os.NewSyscallError("write", unix.ENOBUFS)
	}
	return n, err
}

func TestConnectionsOutliveAWantOfMemory(t *testing.T) {
	a, b := net.Pipe()
	from, to := Conn(&pressed{Conn: a}), Conn(&pressed{Conn: b})
	text := strings.Repeat("nothing is lost ", 4)
	go func() {
		_, _ = io.WriteString(from, text)
		from.Close()
	}()
	got, err := io.ReadAll(to)
	if err != nil || string(got) != text {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := from.Write([]byte("x")); err == nil {
		t.Error("a closed connection takes more")
	}
}

func listen(t *testing.T) (net.Listener, *lines) {
	t.Helper()
	raw, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	log := logrus.New()
	seen := &lines{}
	log.SetOutput(seen)
	l := Listen(raw, "the test", logrus.NewEntry(log))
	t.Cleanup(func() { l.Close() })
	return l, seen
}

// takeDescriptors leaves the process none until giveBack.
func takeDescriptors(t *testing.T) (giveBack func()) {
	t.Helper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	giveBack = sync.OnceFunc(func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(giveBack)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	return giveBack
}

// lines is a log that can be waited for.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *lines) await(t *testing.T, want string) {
	t.Helper()
	for until := time.Now().Add(30 * time.Second); !strings.Contains(l.String(), want); time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("the log lacks %q:\n%s", want, l.String())
		}
	}
}
