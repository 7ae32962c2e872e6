package shim

import (
	"context"
	"errors"
	"time"

	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"

	"github.com/cri-pouch/cri-pouch/internal/crash"
)

// edge is where every call comes in: classes of errors become codes here, and a panic ends one call, not the
// containers of the node.
func (s *Server) edge(ctx context.Context, unmarshal ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, method ttrpc.Method) (answer any, err error) {
	began := time.Now()
	defer func() {
		log := s.log.WithField("rpc", info.FullMethod).WithField("duration", time.Since(began).Round(10*time.Microsecond))
		if err != nil && !errors.Is(err, context.Canceled) {
			log.WithError(err).Debug("refused")
		} else {
			log.Debug("answered")
		}
		err = toCode(err)
	}()
	defer crash.Catch(s.log, info.FullMethod, &err)
	return method(ctx, unmarshal)
}

func toCode(err error) error {
	if err == nil {
		return nil
	}
	return errgrpc.ToGRPC(err)
}
