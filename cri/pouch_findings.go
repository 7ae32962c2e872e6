package cri

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
)

// ListFindings gives what recovery has left alone.
func (s *Service) ListFindings(context.Context, *pouchv1.ListFindingsRequest) (*pouchv1.ListFindingsResponse, error) {
	return &pouchv1.ListFindingsResponse{Findings: s.findingMessages()}, nil
}

// findingMessages is never nil.
func (s *Service) findingMessages() []*pouchv1.Finding {
	all := []*pouchv1.Finding{}
	for _, f := range s.findings.all() {
		all = append(all, findingMessage(f))
	}
	return all
}

// Repair does what the remedy of one kind of findings says, for all of them or the one with an ID. It goes on when its client
// gives up, as far as the finding that it is at.
func (s *Service) Repair(ctx context.Context, r *pouchv1.RepairRequest) (*pouchv1.RepairResponse, error) {
	kind := findingKind(r.GetKind())
	if _, ok := remedies()[kind]; !ok {
		known := slices.Sorted(maps.Keys(remedies()))
		var names []string
		for _, k := range known {
			names = append(names, string(k))
		}
		return nil, fmt.Errorf("kind of finding %q is unknown, there are %s: %w", r.GetKind(), strings.Join(names, ", "), errdefs.ErrInvalidArgument)
	}
	resp := &pouchv1.RepairResponse{}
	var errs []error
	for _, f := range s.findings.all() {
		if f.kind != kind || r.GetId() != "" && f.id != r.GetId() {
			continue
		}
		if err := s.repair(ctx, f); err != nil {
			errs = append(errs, err)
			continue
		}
		resp.Repaired = append(resp.Repaired, findingMessage(f))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if r.GetId() != "" && len(resp.Repaired) == 0 {
		return nil, fmt.Errorf("there is no finding %s of kind %s: %w", r.GetId(), kind, errdefs.ErrNotFound)
	}
	return resp, nil
}

func findingMessage(f finding) *pouchv1.Finding {
	return &pouchv1.Finding{Kind: string(f.kind), Id: f.id, PodSandboxId: f.sandbox, Running: f.running, Reason: f.why, Remedy: remedies()[f.kind]}
}
