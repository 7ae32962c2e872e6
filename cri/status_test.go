package cri

import (
	"errors"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/cri/spec"
)

func TestHandlersHaveWhatTheKernelHas(t *testing.T) {
	for _, recursive := range []bool{false, true} {
		for _, missing := range []error{nil, errors.New("idmapped layers are missing")} {
			s := &Service{Options: Options{Handlers: []string{"runc"}, Spec: spec.NewBuilder(spec.Node{RecursiveReadOnly: recursive}), NoUserNamespaces: missing}}
			all := s.runtimeHandlers()
			if len(all) != 2 {
				t.Fatalf("%d handlers", len(all))
			}
			for _, h := range all {
				if h.Features.RecursiveReadOnlyMounts != recursive || h.Features.UserNamespaces != (missing == nil) {
					t.Errorf("recursive read-only %v, user namespaces %v: handler %q has %v", recursive, missing, h.Name, h.Features)
				}
			}
		}
	}
}

func TestUserNamespaceIsRefusedWithoutThem(t *testing.T) {
	s := &Service{Options: Options{NoUserNamespaces: errors.New("idmapped layers are missing")}}
	_, err := s.RunPodSandbox(t.Context(), &runtime.RunPodSandboxRequest{Config: &runtime.PodSandboxConfig{
		Metadata: &runtime.PodSandboxMetadata{Name: "a", Namespace: "b", Uid: "c"},
		Linux: &runtime.LinuxPodSandboxConfig{SecurityContext: &runtime.LinuxSandboxSecurityContext{NamespaceOptions: &runtime.NamespaceOption{
			UsernsOptions: &runtime.UserNamespace{
				Mode: runtime.NamespaceMode_POD,
				Uids: []*runtime.IDMapping{{HostId: 65536, Length: 65536}}, Gids: []*runtime.IDMapping{{HostId: 65536, Length: 65536}},
			},
		}}},
	}})
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "b/a") || !strings.Contains(err.Error(), "idmapped layers are missing") {
		t.Errorf("the error is %v", err)
	}
}
