package stream

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cri-pouch/cri-pouch/internal/crash"
)

// lingerLimit is how long a connection that was closed here is read on.
const lingerLimit = 2 * time.Second

// Listen makes the connections of l those that a Server works with.
func Listen(l *net.TCPListener) net.Listener { return listener{l} }

type listener struct{ *net.TCPListener }

// Accept is net.Listener's.
func (l listener) Accept() (net.Conn, error) {
	c, err := l.AcceptTCP()
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c, tcp: c}, nil
}

// conn is a connection to a client. Closing it lets the client have all that was written to it: a socket that is closed
// over unread data would reset the connection, and the client could lose the last output and the exit code of a command
// that it was still sending to.
type conn struct {
	net.Conn // hides the other methods of a TCP connection
	tcp      *net.TCPConn

	readers, reads atomic.Int64 // who reads right now, and how often somebody has

	mu      sync.Mutex
	closed  bool
	onClose func()
}

// SyscallConn is syscall.Conn's.
func (c *conn) SyscallConn() (syscall.RawConn, error) { return c.tcp.SyscallConn() }

// CloseWrite is net.TCPConn's; net/http asks for it.
func (c *conn) CloseWrite() error { return c.tcp.CloseWrite() }

// Read is io.Reader's.
func (c *conn) Read(p []byte) (int, error) {
	c.mu.Lock()
	closed := c.closed
	c.mu.Unlock()
	if closed {
		return 0, net.ErrClosed
	}
	c.reads.Add(1)
	c.readers.Add(1)
	defer c.readers.Add(-1)
	return c.Conn.Read(p)
}

// notify says what to call when the connection is closed from this side; at once if it is already. cri-streaming closes it
// when it has read the end.
func (c *conn) notify(fn func()) {
	c.mu.Lock()
	closed := c.closed
	c.onClose = fn
	c.mu.Unlock()
	if closed {
		fn()
	}
}

func (c *conn) begin() (first bool) {
	c.mu.Lock()
	fn := c.onClose
	first, c.closed, c.onClose = !c.closed, true, nil
	c.mu.Unlock()
	if fn != nil {
		fn()
	}
	return first
}

// Close says goodbye, ends all reads and writes in progress, and closes the connection when the client has closed it too.
func (c *conn) Close() error {
	if !c.begin() {
		return nil
	}
	_ = c.tcp.CloseWrite()
	_ = c.tcp.SetDeadline(time.Unix(1, 0))
	crash.Go(nil, "read a connection to its end", func() {
		_ = c.tcp.SetReadDeadline(time.Now().Add(lingerLimit))
		_, _ = io.Copy(io.Discard, c.tcp)
		_ = c.tcp.Close()
	})
	return nil
}

// abort closes the connection of a client that has gone.
func (c *conn) abort() {
	c.begin()
	_ = c.tcp.Close()
}
