package cri

import (
	"context"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// statusLimit bounds the question to the shim.
const statusLimit = 5 * time.Second

// Status says whether pods can be run, and if not, why.
func (s *Service) Status(ctx context.Context, r *runtime.StatusRequest) (*runtime.StatusResponse, error) {
	resp := &runtime.StatusResponse{
		Status: &runtime.RuntimeStatus{Conditions: []*runtime.RuntimeCondition{
			condition(runtime.RuntimeReady, "ShimNotReady", s.shimReady(ctx)),
			condition(runtime.NetworkReady, "NetworkPluginNotReady", s.Network.Ready(ctx)),
		}},
		RuntimeHandlers: s.runtimeHandlers(),
		Features:        &runtime.RuntimeFeatures{SupplementalGroupsPolicy: true},
	}
	if r.GetVerbose() {
		var err error
		resp.Info, err = verbose(map[string]any{"config": map[string]any{
			"version": s.Options.Version, "stateDir": s.StateDir, "systemdCgroup": s.SystemdCgroup, "handlers": s.Handlers,
		}, "findings": s.findingMessages()})
		return resp, err
	}
	return resp, nil
}

func (s *Service) shimReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, statusLimit)
	defer cancel()
	_, err := s.Runtime.List(ctx)
	return err
}

func condition(kind, reason string, err error) *runtime.RuntimeCondition {
	if err == nil {
		return &runtime.RuntimeCondition{Type: kind, Status: true}
	}
	return &runtime.RuntimeCondition{Type: kind, Reason: reason, Message: err.Error()}
}

func (s *Service) runtimeHandlers() []*runtime.RuntimeHandler {
	var all []*runtime.RuntimeHandler
	for _, name := range append([]string{""}, s.Handlers...) {
		all = append(all, &runtime.RuntimeHandler{Name: name, Features: &runtime.RuntimeHandlerFeatures{
			RecursiveReadOnlyMounts: s.Spec.RecursiveReadOnly(), UserNamespaces: s.NoUserNamespaces == nil,
		}})
	}
	return all
}
