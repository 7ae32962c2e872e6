// Package exhaustion keeps what has to stand up standing while the machine has too little of something: memory,
// descriptors, watches. Such an error says nothing of what was asked for, and it passes.
package exhaustion

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// Is reports whether err says that the machine, or the user, has run out of something for now. ENOSPC is the answer of
// epoll_ctl(2) and inotify_add_watch(2) at their limits per user, which a container's root shares with the node's.
func Is(err error) bool {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return false
	}
	switch errno {
	case unix.ENOMEM, unix.EMFILE, unix.ENFILE, unix.ENOSPC, unix.ENOBUFS, unix.EAGAIN:
		return true
	}
	return false
}

const (
	firstPause = 5 * time.Millisecond
	maxPause   = time.Second
)

// Pause is the time to wait before something is tried again. It doubles from 5 ms to 1 s. The zero value is ready.
type Pause struct{ last time.Duration }

// Next gives the time to wait now.
func (p *Pause) Next() time.Duration {
	p.last = min(max(2*p.last, firstPause), maxPause)
	return p.last
}

// Reset begins anew: it has worked.
func (p *Pause) Reset() { p.last = 0 }
