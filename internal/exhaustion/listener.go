package exhaustion

import (
	"errors"
	"net"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// Listen gives a listener whose Accept returns a connection, or an error once l is closed or no listener any more.
// Everything else that accept(2) and the registration with the poller answer passes: it is logged once for each run of
// failures, and tried again. Servers end at the first error that they do not know to pass, and they know only EMFILE and
// ENFILE.
func Listen(l net.Listener, what string, log *logrus.Entry) net.Listener {
	return &listener{Listener: l, what: what, log: log, closed: make(chan struct{})}
}

type listener struct {
	net.Listener
	what   string
	log    *logrus.Entry
	once   sync.Once
	closed chan struct{}

	mu      sync.Mutex
	pause   Pause
	failing int // failures since the last connection
}

// Accept is net.Listener's.
func (l *listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err == nil {
			l.succeed()
			return conn, nil
		}
		if permanent(err) {
			return nil, err
		}
		select {
		case <-time.After(l.fail(err)):
		case <-l.closed:
			return nil, net.ErrClosed
		}
	}
}

// permanent reports whether the listener itself is over.
func permanent(err error) bool {
	for _, e := range []error{net.ErrClosed, unix.EBADF, unix.ENOTSOCK, unix.EINVAL, unix.EFAULT} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func (l *listener) fail(err error) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failing == 0 {
		l.log.WithError(err).Errorf("cannot accept connections of %s, trying again", l.what)
	}
	l.failing++
	return l.pause.Next()
}

func (l *listener) succeed() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failing > 0 {
		l.log.WithField("failures", l.failing).Infof("connections of %s are accepted again", l.what)
	}
	l.failing = 0
	l.pause.Reset()
}

// Close is net.Listener's. An Accept that waits returns.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}
