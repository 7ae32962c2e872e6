package cri

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
	"github.com/cri-pouch/cri-pouch/internal/journal"
)

// minPodID is how much of a sandbox's ID names a pod in the journal: one that is gone is in no index that could tell
// whether less is unique.
const minPodID = 4

// Events sends the journal of what happened to containers, and what happens from then on if the client follows.
func (s *Service) Events(r *pouchv1.EventsRequest, out grpc.ServerStreamingServer[pouchv1.EventsResponse]) error {
	if s.Journal == nil {
		return fmt.Errorf("this daemon keeps no journal, its log says why: %w", errdefs.ErrNotImplemented)
	}
	newest := s.Journal.Newest()
	reader, err := s.Journal.Reader(r.GetAfter())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(out.Context())
	defer cancel()
	defer context.AfterFunc(s.chores.ctx, cancel)()
	for missed := uint64(0); ; {
		found := reader.Next(1)
		if len(found) == 0 || !r.GetFollow() && found[0].Number > newest {
			if !r.GetFollow() {
				return nil
			}
			if err := reader.Wait(ctx); err != nil {
				return s.endOfStream()
			}
			continue
		}
		e := found[0]
		missed += e.Missed
		if nanos(e.Time) < r.GetSince() || !concerns(e.Entry, r.GetPod()) {
			continue
		}
		if err := out.Send(&pouchv1.EventsResponse{Event: eventMessage(e.Entry), Missed: missed}); err != nil {
			return fmt.Errorf("send events: %w", err)
		}
		missed = 0
	}
}

// endOfStream is nil when the client has gone, and says so when the daemon goes.
func (s *Service) endOfStream() error {
	if s.chores.ctx.Err() != nil {
		return fmt.Errorf("the daemon is stopping: %w", errdefs.ErrUnavailable)
	}
	return nil
}

// concerns says whether an entry is about the pod that a client names; empty: any.
func concerns(e journal.Entry, pod string) bool {
	switch pod {
	case "", e.Pod, e.UID, e.Namespace + "/" + e.Pod:
		return true
	}
	return len(pod) >= minPodID && strings.HasPrefix(e.SandboxID, pod)
}

func eventMessage(e journal.Entry) *pouchv1.Event {
	return &pouchv1.Event{
		Number: e.Number, Time: nanos(e.Time), Kind: string(e.Kind),
		PodSandboxId: e.SandboxID, PodName: e.Pod, PodNamespace: e.Namespace, PodUid: e.UID,
		ContainerId: e.ContainerID, ContainerName: e.Name, Attempt: e.Attempt, Image: e.Image, ImageRef: e.ImageRef,
		PredecessorId: e.Predecessor, OutageMs: e.Outage, ExitCode: e.ExitCode, Reason: e.Reason, Message: e.Message,
	}
}
