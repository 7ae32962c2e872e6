package cri

import (
	"context"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// runtimeName prefixes container IDs in the API server: one value for all clients, for ever.
	runtimeName = "cri-pouch"
	// kubeletAPIVersion is the only one that CRI has had.
	kubeletAPIVersion = "0.1.0"
	runtimeAPIVersion = "v1"
)

// Version names the runtime; the answer does not depend on the version asked with.
func (s *Service) Version(context.Context, *runtime.VersionRequest) (*runtime.VersionResponse, error) {
	return &runtime.VersionResponse{
		Version: kubeletAPIVersion, RuntimeName: runtimeName, RuntimeVersion: s.Options.Version, RuntimeApiVersion: runtimeAPIVersion,
	}, nil
}
