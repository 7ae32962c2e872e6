package cri

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/snapshot"
)

var (
	_ Images         = (*snapshot.Store)(nil)
	_ SandboxRecords = (*snapshot.Store)(nil)
	_ Rootfs         = (*snapshot.Rootfs)(nil)
)

func TestImageUser(t *testing.T) {
	for _, c := range []struct {
		user string
		uid  int64 // -1: none
		name string
	}{
		{"", -1, ""},
		{"0", 0, ""},
		{"1000:1000", 1000, ""},
		{"2147483647", 2147483647, ""},
		{"2147483648", -1, "2147483648"}, // beyond what a user ID may be
		{"4294967296", -1, "4294967296"}, // 0 if it were cut to 32 bits
		{"-1", -1, "-1"},
		{"nobody", -1, "nobody"},
		{"nobody:users", -1, "nobody"},
	} {
		uid, name := imageUser(c.user)
		if (uid == nil) != (c.uid < 0) || (uid != nil && uid.Value != c.uid) || name != c.name {
			t.Errorf("imageUser(%q) = %v, %q", c.user, uid, name)
		}
	}
}

func TestImageItemSaysWhatTheImageSays(t *testing.T) {
	img := snapshot.Image{ID: "sha256:a", RepoTags: []string{"r:1"}, RepoDigests: []string{"r@sha256:b"}, Size: 7, Pinned: true}
	img.Config.Config = ocispec.ImageConfig{User: "5"}
	got := imageItem(img)
	if got.Id != "sha256:a" || got.Size != 7 || !got.Pinned || got.Uid.Value != 5 || got.RepoTags[0] != "r:1" || got.RepoDigests[0] != "r@sha256:b" {
		t.Errorf("item is %v", got)
	}
}

func TestPullAuth(t *testing.T) {
	b64 := base64.StdEncoding.EncodeToString
	for _, c := range []struct {
		name string
		in   *runtime.AuthConfig
		want *snapshot.Auth
		bad  bool
	}{
		{"none", nil, nil, false},
		{"user and password", &runtime.AuthConfig{Username: "u", Password: "p", ServerAddress: "r"}, &snapshot.Auth{Username: "u", Password: "p", ServerAddress: "r"}, false},
		{"auth", &runtime.AuthConfig{Auth: b64([]byte("u:p:q"))}, &snapshot.Auth{Username: "u", Password: "p:q"}, false},
		{"auth with padding", &runtime.AuthConfig{Auth: b64([]byte("u:p\x00\x00"))}, &snapshot.Auth{Username: "u", Password: "p"}, false},
		{"user wins over auth", &runtime.AuthConfig{Username: "u", Auth: "%"}, &snapshot.Auth{Username: "u"}, false},
		{"token", &runtime.AuthConfig{IdentityToken: "t"}, &snapshot.Auth{IdentityToken: "t"}, false},
		{"no base64", &runtime.AuthConfig{Auth: "%%"}, nil, true},
		{"no colon", &runtime.AuthConfig{Auth: b64([]byte("u"))}, nil, true},
	} {
		got, err := pullAuth(c.in)
		if c.bad != errdefs.IsInvalidArgument(err) || (got == nil) != (c.want == nil) || (got != nil && *got != *c.want) {
			t.Errorf("%s: %+v, %v", c.name, got, err)
		}
	}
}

// The kubelet takes "rpc error: …" off the message for the code Unknown only, and then looks at how it begins.
func TestUnavailableRegistryHasNoClassForTheKubelet(t *testing.T) {
	err := asKubeletReads(fmt.Errorf("RegistryUnavailable: pull r:1: %w", errdefs.ErrUnavailable))
	if errdefs.Resolve(err) != errdefs.ErrUnknown || !strings.HasPrefix(err.Error(), "RegistryUnavailable: ") {
		t.Errorf("%v is of class %v", err, errdefs.Resolve(err))
	}
	if err := asKubeletReads(fmt.Errorf("pull r:1: %w", errdefs.ErrNotFound)); !errdefs.IsNotFound(err) {
		t.Errorf("%v lost its class", err)
	}
}
