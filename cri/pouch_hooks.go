package cri

import (
	"context"

	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
	"github.com/cri-pouch/cri-pouch/hooks"
)

// ListHooks gives the files that declare hooks of the node.
func (s *Service) ListHooks(context.Context, *pouchv1.ListHooksRequest) (*pouchv1.ListHooksResponse, error) {
	resp := &pouchv1.ListHooksResponse{}
	if s.NodeHooks == nil {
		return resp, nil
	}
	for _, f := range s.NodeHooks.List() {
		resp.Files = append(resp.Files, hookFileMessage(f))
	}
	return resp, nil
}

func hookFileMessage(f hooks.NodeFile) *pouchv1.HookFile {
	m := &pouchv1.HookFile{
		File: f.Path, Path: f.Hook.Path, Args: f.Hook.Args, Env: f.Hook.Env,
		When: &pouchv1.HookCondition{Always: f.When.Always, Commands: f.When.Commands, HasBindMounts: f.When.HasBindMounts, Annotations: map[string]string{}},
	}
	if f.Hook.Timeout != nil {
		m.TimeoutSeconds = int64(*f.Hook.Timeout)
	}
	for _, s := range f.Stages {
		m.Stages = append(m.Stages, string(s))
	}
	for _, p := range f.When.Annotations {
		m.When.Annotations[p.Key] = p.Value
	}
	if f.Err != nil {
		m.Error = f.Err.Error()
	}
	return m
}
