package cri

import (
	"context"

	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
	"github.com/cri-pouch/cri-pouch/cri/model"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

// History gives the generations of a pod's containers over all its sandboxes: what each was asked to run, why it was
// made, when it ran, how it ended, and for how long nothing ran before it.
func (s *Service) History(_ context.Context, r *pouchv1.HistoryRequest) (*pouchv1.HistoryResponse, error) {
	sb, err := s.index.sandbox(r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	cfg := sb.record().Config
	resp := &pouchv1.HistoryResponse{PodSandboxId: sb.id, PodName: cfg.Name, PodNamespace: cfg.Namespace, PodUid: cfg.UID}
	for _, g := range newest(s.generations(sb), func(g generation) string { return g.Name }) {
		resp.Generations = append(resp.Generations, generationMessage(g))
	}
	return resp, nil
}

func generationMessage(g generation) *pouchv1.Generation {
	return &pouchv1.Generation{
		ContainerName: g.Name, ContainerId: g.ID, Attempt: g.Attempt, State: generationState(g.status),
		Image: g.Image, ImageRef: g.ImageRef, ImageId: g.ImageID, Hash: g.Lineage.Hash,
		Cause: cause(g.Lineage.Cause), PredecessorId: g.Lineage.Predecessor,
		CreatedAt: nanos(g.CreatedAt), StartedAt: nanos(g.StartedAt), FinishedAt: nanos(g.FinishedAt), OutageMs: g.Outage,
		ExitCode: g.ExitCode, Reason: g.Reason, Message: g.Message,
	}
}

func generationState(s task.Status) pouchv1.GenerationState {
	switch s {
	case "":
		return pouchv1.GenerationState_GENERATION_STATE_REMOVED
	case task.Created:
		return pouchv1.GenerationState_GENERATION_STATE_CREATED
	case task.Running, task.Paused:
		return pouchv1.GenerationState_GENERATION_STATE_RUNNING
	}
	return pouchv1.GenerationState_GENERATION_STATE_EXITED
}

func cause(c model.Cause) pouchv1.Cause {
	switch c {
	case model.CauseFirst:
		return pouchv1.Cause_CAUSE_FIRST
	case model.CauseRestart:
		return pouchv1.Cause_CAUSE_RESTART
	case model.CauseUpgrade:
		return pouchv1.Cause_CAUSE_UPGRADE
	}
	return pouchv1.Cause_CAUSE_UNSPECIFIED
}
