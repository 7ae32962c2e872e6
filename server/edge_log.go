package server

import (
	"strings"

	"github.com/sirupsen/logrus"
	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// levelOf is the level of a call's line: the kubelet's polling is for debugging, changes are information, and an error
// is an error when it is ours and a warning when it is the caller's or passes.
func levelOf(rpc string, code codes.Code) logrus.Level {
	switch code {
	case codes.OK:
		if isRead(rpc) {
			return logrus.DebugLevel
		}
		return logrus.InfoLevel
	case codes.Internal, codes.Unknown, codes.DataLoss:
		return logrus.ErrorLevel
	}
	return logrus.WarnLevel
}

// isRead says whether the RPC changes nothing. New ones that are not known here count as changes and are logged.
func isRead(rpc string) bool {
	if strings.HasPrefix(rpc, "List") || strings.HasPrefix(rpc, "Stream") || strings.HasPrefix(rpc, "Watch") {
		return true
	}
	switch rpc {
	case "Version", "Status", "RuntimeConfig", "PodSandboxStatus", "ContainerStatus", "ContainerStats", "PodSandboxStats",
		"ImageStatus", "ImageFsInfo", "GetContainerEvents", "History", "Events", "Units", "InitLog":
		return true
	}
	return false
}

// fieldsOf gives what names the object of a call: pod, container, image. Messages are read by their getters, so that a
// new RPC with such a field is covered.
func fieldsOf(req, resp any) logrus.Fields {
	f := logrus.Fields{}
	for _, m := range []any{req, resp} {
		if v, ok := m.(interface{ GetPodSandboxId() string }); ok {
			put(f, "pod", v.GetPodSandboxId())
		}
		if v, ok := m.(interface{ GetContainerId() string }); ok {
			put(f, "container", v.GetContainerId())
		}
		if v, ok := m.(interface{ GetImageRef() string }); ok {
			put(f, "image_id", v.GetImageRef())
		}
		if v, ok := m.(interface{ GetImage() *runtime.ImageSpec }); ok {
			put(f, "image", v.GetImage().GetImage())
		}
	}
	switch r := req.(type) {
	case *runtime.RunPodSandboxRequest:
		m := r.GetConfig().GetMetadata()
		put(f, "pod_name", strings.Trim(m.GetNamespace()+"/"+m.GetName(), "/"))
	case *runtime.CreateContainerRequest:
		put(f, "container_name", r.GetConfig().GetMetadata().GetName())
		put(f, "image", r.GetConfig().GetImage().GetImage())
	}
	return f
}

func put(f logrus.Fields, key, value string) {
	const most = 512 // a field's value comes from outside
	if len(value) > most {
		value = value[:most] + "…"
	}
	if value != "" {
		f[key] = value
	}
}
