package cri

import (
	"context"
	"errors"

	"github.com/cri-pouch/cri-pouch/cri/model"
	"github.com/cri-pouch/cri-pouch/network"
)

// CollectNetwork begins to release in the background what CNI holds for pods that are no more. It must be called once after
// Recover, when the service is reached: a plugin may take long, and nobody has to wait for it.
func (s *Service) CollectNetwork() {
	s.chores.run("release the addresses of former pods", 0, func(ctx context.Context) error {
		err := s.Network.GC(ctx, s.attachedPods())
		if errors.Is(err, network.ErrBusy) {
			return err
		}
		if err != nil && ctx.Err() == nil {
			s.Log.WithError(err).Warn("CNI garbage collection failed, addresses of former pods may stay reserved until the next start")
		}
		return nil
	})
}

// attachedPods are those whose attachments CNI must keep, those that are being made or undone included.
func (s *Service) attachedPods() []network.Pod {
	var keep []network.Pod
	for _, sb := range s.index.allSandboxes() {
		if rec := sb.record(); !rec.NetworkDown && rec.Config.Namespaces.Network != model.ModeNode {
			keep = append(keep, networkPod(rec))
		}
	}
	for _, f := range s.findings.all() { // any of them may be a sandbox, or tell of one
		keep = append(keep, network.Pod{ID: f.id}, network.Pod{ID: f.sandbox})
	}
	return keep
}
