package cri

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/snapshot"
)

// PullImage makes an image present and gives its ID. The sandbox configuration is not looked at: some clients send one
// without metadata.
func (s *Service) PullImage(ctx context.Context, r *runtime.PullImageRequest) (*runtime.PullImageResponse, error) {
	ref := r.GetImage().GetImage()
	if ref == "" {
		return nil, fmt.Errorf("pull image: the request names no image: %w", errdefs.ErrInvalidArgument)
	}
	if h := r.GetImage().GetRuntimeHandler(); !s.knownHandler(h) {
		return nil, fmt.Errorf("pull image %s: unknown runtime handler %q: %w", ref, h, errdefs.ErrInvalidArgument)
	}
	auth, err := pullAuth(r.GetAuth())
	if err != nil {
		return nil, fmt.Errorf("pull image %s: %w", ref, err)
	}
	img, err := s.Images.Pull(ctx, ref, auth)
	if err != nil {
		s.notePull(ref, r.GetSandboxConfig().GetMetadata(), err)
		return nil, err // begins with what the kubelet looks for (RegistryUnavailable) and names the image
	}
	return &runtime.PullImageResponse{ImageRef: img.ID}, nil
}

// pullAuth converts credentials. Auth is base64 of USER:PASSWORD, as in docker's configuration.
func pullAuth(a *runtime.AuthConfig) (*snapshot.Auth, error) {
	if a == nil {
		return nil, nil
	}
	auth := &snapshot.Auth{
		Username: a.GetUsername(), Password: a.GetPassword(), IdentityToken: a.GetIdentityToken(),
		RegistryToken: a.GetRegistryToken(), ServerAddress: a.GetServerAddress(),
	}
	if auth.Username != "" || auth.IdentityToken != "" || auth.RegistryToken != "" || a.GetAuth() == "" {
		return auth, nil
	}
	raw, err := base64.StdEncoding.DecodeString(a.GetAuth())
	user, password, ok := strings.Cut(strings.TrimRight(string(raw), "\x00"), ":")
	if err != nil || !ok { // the text itself is a secret
		return nil, fmt.Errorf("the credentials' auth is not base64 of USER:PASSWORD: %w", errdefs.ErrInvalidArgument)
	}
	auth.Username, auth.Password = user, password
	return auth, nil
}
