// Package crash keeps a panic in the business of one pod from ending the process that serves all pods of the node. Every
// routine of shim and daemon is started through it. A panic ends the one piece of work that it happened in; it stands in
// the log with its stack, and is counted (Counter). What has to happen after the work all the same is the caller's to do,
// by defer or by a step of its own.
//
// A lock that the work held without defer stays locked, and what Go's runtime itself gives up at (a concurrent write to a
// map, no memory) is no panic.
package crash

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
)

// Field is the log field that an entry about a panic has: what was being done.
const Field = "panic"

// restartPause is the time between a panic of standing work and its next start.
const restartPause = time.Second

// Go runs fn in a routine of its own. A nil log is that of containerd's libraries, which shim and daemon lead into theirs.
func Go(log *logrus.Entry, what string, fn func()) { go Guard(log, what, fn)() }

// Guard gives a function that is fn without its panics: for routines that a WaitGroup or a timer starts.
func Guard(log *logrus.Entry, what string, fn func()) func() {
	return func() { Run(log, what, fn) }
}

// GuardError is Guard for functions that give an error.
func GuardError(log *logrus.Entry, what string, fn func() error) func() error {
	return func() error { return Try(log, what, fn) }
}

// Run calls fn and reports whether it returned without a panic.
func Run(log *logrus.Entry, what string, fn func()) (ok bool) {
	return Try(log, what, func() error { fn(); return nil }) == nil
}

// Try calls fn and gives its error, or one of class errdefs.ErrInternal after a panic.
func Try(log *logrus.Entry, what string, fn func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = Report(log, what, p)
		}
	}()
	return fn()
}

// Catch is Try for a function with steps of its own to take after a failure. It must be deferred, after what takes those steps,
// and makes the error of a panic *err: whatever was deferred before it sees a failure like any other.
func Catch(log *logrus.Entry, what string, err *error) {
	if p := recover(); p != nil {
		*err = Report(log, what, p)
	}
}

// Report logs and counts what recover gave, and makes an error of it. It must be called by the deferred function itself,
// while the stack is still the panic's.
func Report(entry *logrus.Entry, what string, recovered any) error {
	if entry == nil {
		entry = log.L
	}
	entry.WithField(Field, what).WithField("stack", string(debug.Stack())).Errorf("panic: %v", recovered)
	return fmt.Errorf("%s: %w: the log has the stack of this panic: %v", what, errdefs.ErrInternal, recovered)
}

// Keep is Guard for standing work: after a panic it is begun again, a second later, until it returns by itself or ctx ends.
func Keep(ctx context.Context, log *logrus.Entry, what string, fn func()) func() {
	return func() {
		for !Run(log, what, fn) {
			select {
			case <-time.After(restartPause):
			case <-ctx.Done():
				return
			}
		}
	}
}
