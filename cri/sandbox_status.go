package cri

import (
	"context"
	"encoding/json"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/cri/model"
)

// PodSandboxStatus describes one sandbox. Its timestamp stays 0: with one, a kubelet with EventedPLEG takes the containers'
// statuses from here and forgets those of init containers.
func (s *Service) PodSandboxStatus(_ context.Context, r *runtime.PodSandboxStatusRequest) (*runtime.PodSandboxStatusResponse, error) {
	sb, err := s.index.sandbox(r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	rec := sb.record()
	resp := &runtime.PodSandboxStatusResponse{Status: sandboxStatus(rec)}
	if r.GetVerbose() {
		resp.Info, err = verbose(s.sandboxInfo(rec))
	}
	return resp, err
}

func sandboxStatus(rec model.Sandbox) *runtime.PodSandboxStatus {
	st := &runtime.PodSandboxStatus{
		Id: rec.ID, Metadata: sandboxMetadata(rec.Config), State: sandboxState(rec), CreatedAt: rec.CreatedAt.UnixNano(),
		Labels: rec.Config.Labels, Annotations: rec.Config.Annotations, RuntimeHandler: rec.Config.RuntimeHandler,
		Linux: &runtime.LinuxPodSandboxStatus{Namespaces: &runtime.Namespace{Options: namespaceOptions(rec.Config.Namespaces)}},
	}
	if rec.Config.Namespaces.Network != model.ModeNode {
		st.Network = sandboxNetwork(rec)
	}
	return st
}

// sandboxNetwork gives the pod's addresses; a stopped sandbox has none any more.
func sandboxNetwork(rec model.Sandbox) *runtime.PodSandboxNetworkStatus {
	n := &runtime.PodSandboxNetworkStatus{}
	if rec.NetworkDown {
		return n
	}
	for i, ip := range rec.IPs {
		if i == 0 {
			n.Ip = ip
			continue
		}
		n.AdditionalIps = append(n.AdditionalIps, &runtime.PodIP{Ip: ip})
	}
	return n
}

// sandboxInfo is the verbose part of a status.
func (s *Service) sandboxInfo(rec model.Sandbox) map[string]any {
	info := map[string]any{
		"runtimeHandler": rec.Config.RuntimeHandler,
		"config":         rec.Config,
		"namespaces":     s.Network.Namespaces(networkPod(rec)),
		"bootID":         rec.BootID,
	}
	if json.Valid(rec.CNIResult) {
		info["cniResult"] = json.RawMessage(rec.CNIResult)
	}
	return map[string]any{"info": info}
}

// verbose turns each value into the JSON that crictl prints.
func verbose(m map[string]any) (map[string]string, error) {
	out := make(map[string]string, len(m))
	for k, v := range m {
		b, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		out[k] = string(b)
	}
	return out, nil
}
