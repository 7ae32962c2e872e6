package shim

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
)

// edge is where every call comes in: classes of errors become codes here, and a panic ends one call, not the
// containers of the node.
func (s *Server) edge(ctx context.Context, unmarshal ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, method ttrpc.Method) (answer any, err error) {
	began := time.Now()
	defer func() {
		if p := recover(); p != nil {
			s.log.WithField("rpc", info.FullMethod).Errorf("panic: %v\n%s", p, debug.Stack())
			answer, err = nil, fmt.Errorf("the shim failed inside %s: %w", info.FullMethod, errdefs.ErrInternal)
		}
		log := s.log.WithField("rpc", info.FullMethod).WithField("duration", time.Since(began).Round(10*time.Microsecond))
		if err != nil && !errors.Is(err, context.Canceled) {
			log.WithError(err).Debug("refused")
		} else {
			log.Debug("answered")
		}
		err = toCode(err)
	}()
	return method(ctx, unmarshal)
}

func toCode(err error) error {
	if err == nil {
		return nil
	}
	return errgrpc.ToGRPC(err)
}

// within runs fn and gives its error. When the limit passes, late is called once to make fn come to an end; if that does
// not help within killLimit either, within gives up and reports so, and after tells when fn has returned at last.
func within(limit time.Duration, what string, late func(), fn func() error) (after <-chan struct{}, err error) {
	done := make(chan struct{})
	var result error
	go func() {
		defer close(done)
		defer func() { // a panic here would end the containers of the node
			if p := recover(); p != nil {
				result = fmt.Errorf("the shim failed inside a %s: %v\n%s: %w", what, p, debug.Stack(), errdefs.ErrInternal)
			}
		}()
		result = fn()
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-done:
		return done, result
	case <-timer.C:
	}
	late()
	timer.Reset(killLimit)
	select {
	case <-done:
		if result == nil {
			return done, nil
		}
		return done, fmt.Errorf("%s took longer than %s and was ended (%v): %w", what, limit, result, context.DeadlineExceeded)
	case <-timer.C:
		return done, fmt.Errorf("%s took longer than %s and cannot be ended: %w", what, limit, context.DeadlineExceeded)
	}
}
