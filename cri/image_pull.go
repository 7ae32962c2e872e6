package cri

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"

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
		return nil, asKubeletReads(err)
	}
	return &runtime.PullImageResponse{ImageRef: img.ID}, nil
}

// asKubeletReads gives an error of a registry that does not answer the code Unknown: the kubelet tells it by the beginning
// of the message, and only for this code does it take off what gRPC puts before that (cri-client, pullImageV1).
func asKubeletReads(err error) error {
	if text := err.Error(); strings.HasPrefix(text, crierrors.ErrRegistryUnavailable.Error()) {
		return errors.New(text)
	}
	return err
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
