package cri

import (
	"context"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/cri/model"
	"github.com/cri-pouch/cri-pouch/internal/hookrun"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

// ContainerStatus describes one container.
func (s *Service) ContainerStatus(_ context.Context, r *runtime.ContainerStatusRequest) (*runtime.ContainerStatusResponse, error) {
	c, err := s.index.container(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	v := c.view()
	resp := &runtime.ContainerStatusResponse{Status: containerStatus(v)}
	if r.GetVerbose() {
		resp.Info, err = verbose(s.containerInfo(v))
	}
	return resp, err
}

func containerStatus(v view) *runtime.ContainerStatus {
	cfg := v.rec.Config
	st := &runtime.ContainerStatus{
		Id: v.rec.ID, Metadata: containerMetadata(cfg), State: containerState(v),
		CreatedAt: v.rec.CreatedAt.UnixNano(), StartedAt: nanos(v.startedAt),
		Image: imageSpec(v.rec), ImageRef: v.rec.ImageRef, ImageId: v.rec.ImageID,
		Labels: cfg.Labels, Annotations: cfg.Annotations, Mounts: mountsToCRI(cfg.Mounts), LogPath: v.rec.LogPath,
		StopSignal: signalToCRI(v.rec.StopSignal),
	}
	if r := resourcesToCRI(cfg.Resources); r != nil {
		st.Resources = &runtime.ContainerResources{Linux: r}
	}
	if v.status != task.Created {
		st.User = userToCRI(v.rec.User)
	}
	if end := v.rec.End; end != nil {
		st.FinishedAt, st.ExitCode, st.Reason, st.Message = nanos(end.FinishedAt), end.ExitCode, end.Reason, end.Message
	}
	return st
}

// nanos gives CRI's times: nanoseconds since the epoch, 0 for none.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// containerInfo is the verbose part of a status.
func (s *Service) containerInfo(v view) map[string]any {
	info := map[string]any{
		"sandboxID": v.rec.SandboxID,
		"pid":       v.pid,
		"removing":  v.removing,
		"config":    v.rec.Config,
		"bundle":    s.bundleDir(v.rec.ID),
		"argv":      v.rec.Argv,
		"lineage":   v.rec.Lineage,
	}
	if sp, err := s.readSpec(v.rec.ID); err == nil {
		info["runtimeSpec"] = sp
	}
	if v.rec.Rich != nil {
		info["rich"] = s.richInfo(v.rec)
	}
	if hooked(v.rec) {
		info["hooks"] = s.hookResults(v.rec)
	}
	if results, err := hookrun.ReadNodeResults(s.bundleDir(v.rec.ID)); err == nil && results != nil {
		info["nodeHooks"] = results
	}
	return map[string]any{"info": info}
}

// userOf is the identity that a specification gives to the first process.
func userOf(sp *specs.Spec) model.User {
	u := model.User{UID: int64(sp.Process.User.UID), GID: int64(sp.Process.User.GID)}
	for _, g := range sp.Process.User.AdditionalGids {
		u.SupplementalGroups = append(u.SupplementalGroups, int64(g))
	}
	return u
}
