package cri

import (
	"context"
	"fmt"

	"google.golang.org/grpc"

	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
	"github.com/cri-pouch/cri-pouch/snapshot"
)

// WatchPulls sends the pulls in progress whenever they change, until the client goes away. The reference of the request
// is normalised as PullImage does it.
func (s *Service) WatchPulls(r *pouchv1.WatchPullsRequest, out grpc.ServerStreamingServer[pouchv1.WatchPullsResponse]) error {
	only := r.GetReference()
	if only != "" {
		full, err := snapshot.NormaliseReference(only)
		if err != nil {
			return err
		}
		only = full
	}
	ctx, cancel := context.WithCancel(out.Context())
	defer cancel()
	for pulls := range s.Images.WatchPulls(ctx) {
		resp := &pouchv1.WatchPullsResponse{}
		for _, p := range pulls {
			if only == "" || p.Ref == only {
				resp.Pulls = append(resp.Pulls, pullMessage(p))
			}
		}
		if err := out.Send(resp); err != nil {
			return fmt.Errorf("send pulls: %w", err)
		}
	}
	return nil
}

func pullMessage(p snapshot.PullProgress) *pouchv1.Pull {
	return &pouchv1.Pull{
		Reference: p.Ref, StartedAt: p.StartedAt.UnixNano(), BytesTotal: p.Total, BytesDone: p.Done,
		LayersTotal: int32(p.Layers), LayersUnpacked: int32(p.Unpacked),
	}
}
