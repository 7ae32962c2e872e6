package server

import (
	"context"
	"fmt"
	"math"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/sirupsen/logrus"
)

// notifier tells the service manager of the daemon's state (sd_notify(3)). Without a manager it does nothing.
type notifier struct {
	socket   string
	watchdog time.Duration // 0: no watchdog
	log      *logrus.Entry
}

// newNotifier reads what the manager set, and removes it from the environment: the shim and CNI plugins must not answer
// in the daemon's name.
func newNotifier(log *logrus.Entry) *notifier {
	n := &notifier{socket: os.Getenv("NOTIFY_SOCKET"), log: log}
	pid := os.Getenv("WATCHDOG_PID")
	if pid == "" || pid == strconv.Itoa(os.Getpid()) {
		if µs, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64); err == nil && µs > 0 {
			n.watchdog = time.Duration(min(µs, math.MaxInt64/int64(time.Microsecond))) * time.Microsecond
		}
	}
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"} {
		_ = os.Unsetenv(name) // fails only for an impossible name
	}
	return n
}

// tell sends lines as "READY=1"; a failure is logged, for the daemon serves all the same.
func (n *notifier) tell(state string) {
	if n.socket == "" {
		return
	}
	// Go turns a leading @ into the NUL of an abstract socket.
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.socket, Net: "unixgram"})
	if err == nil {
		defer conn.Close()
		_, err = conn.Write([]byte(state))
	}
	if err != nil {
		n.log.WithError(err).Warn("the service manager cannot be told of the daemon's state")
	}
}

// watch tells the manager twice in each watchdog interval that the daemon lives, as long as alive says so, until ctx ends.
func (n *notifier) watch(ctx context.Context, alive func(context.Context) error) {
	if n.watchdog <= 0 {
		return
	}
	tick := time.NewTicker(n.watchdog / 2)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		check, cancel := context.WithTimeout(ctx, n.watchdog/2)
		err := alive(check)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			n.log.WithError(fmt.Errorf("self-check: %w", err)).Error("the daemon does not answer, the service manager's watchdog is not told")
			continue
		}
		n.tell("WATCHDOG=1")
	}
}
