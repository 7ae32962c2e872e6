package cri

import "time"

// allowance bounds how many entries of the journal one container's inside may take.
type allowance struct {
	left  int
	since time.Time // left is of then
}

func newAllowance() allowance { return allowance{left: tellBurst, since: time.Now()} }

// refill adds what has become free since the last time.
func (a *allowance) refill(now time.Time) {
	if n := int(now.Sub(a.since) / tellPause); n > 0 {
		a.left, a.since = min(a.left+n, tellBurst), a.since.Add(time.Duration(n)*tellPause)
	}
}

// fill makes all of it free: the container has ended.
func (a *allowance) fill() { a.left = tellBurst }

func (a *allowance) take() bool {
	if a.left == 0 {
		return false
	}
	a.left--
	return true
}
