// Package undo keeps the named steps that take back a half-done piece of work, and runs them in reverse order.
package undo

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/log"

	"github.com/cri-pouch/cri-pouch/internal/crash"
)

// Stack collects undo steps while work goes on. The zero value is ready; it is not safe for concurrent use.
type Stack struct {
	steps []step
}

type step struct {
	what string
	fn   func(context.Context) error
}

// Add notes how to take back what has just been done; what reads as in "remove network namespace".
func (s *Stack) Add(what string, fn func(context.Context) error) {
	s.steps = append(s.steps, step{what, fn})
}

// Keep forgets all steps: the work is complete.
func (s *Stack) Keep() { s.steps = nil }

// Run undoes everything, newest first, within limit, whatever has become of ctx's deadline or cancellation (its
// values are kept). A step that fails does not stop the others; all errors come back joined.
func (s *Stack) Run(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	var errs []error
	for i := len(s.steps) - 1; i >= 0; i-- {
		one := s.steps[i]
		if err := crash.Try(log.G(ctx), one.what, func() error { return one.fn(ctx) }); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", one.what, err))
		}
	}
	s.steps = nil
	return errors.Join(errs...)
}
