package exhaustion

import (
	"net"
	"sync"
	"time"
)

// Conn gives a connection whose reads and writes wait where the kernel has no memory for them, until it has or the
// connection is closed. A protocol above it would take such an error for the end of the connection, or read no more and
// leave its peer waiting.
func Conn(c net.Conn) net.Conn { return &conn{Conn: c, closed: make(chan struct{})} }

type conn struct {
	net.Conn
	once   sync.Once
	closed chan struct{}
}

// Read is net.Conn's.
func (c *conn) Read(p []byte) (int, error) {
	var pause Pause
	for {
		n, err := c.Conn.Read(p)
		if n > 0 || err == nil || !c.waits(err, &pause) {
			return n, err
		}
	}
}

// Write is net.Conn's.
func (c *conn) Write(p []byte) (int, error) {
	var pause Pause
	for done := 0; ; {
		n, err := c.Conn.Write(p[done:])
		if done += n; n > 0 {
			pause.Reset()
		}
		if err == nil || !c.waits(err, &pause) {
			return done, err
		}
	}
}

// waits reports whether it has waited and the call is worth another try.
func (c *conn) waits(err error, pause *Pause) bool {
	if !Is(err) {
		return false
	}
	select {
	case <-time.After(pause.Next()):
		return true
	case <-c.closed:
		return false
	}
}

// Close is net.Conn's.
func (c *conn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}
