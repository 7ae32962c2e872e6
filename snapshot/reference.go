package snapshot

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// maxReference bounds the length of a reference in bytes (repository names are limited to 255 by the registries).
const maxReference = 4096

// Reference is a normalised image reference: a repository with its registry, and a tag, a digest, or both.
type Reference struct {
	repo   string // docker.io/library/busybox
	domain string // docker.io
	tag    string
	digest digest.Digest
}

// ParseReference normalises what a user writes: docker.io and library/ are added where there is no registry, :latest
// where there is neither tag nor digest. A malformed one is errdefs.ErrInvalidArgument.
func ParseReference(s string) (Reference, error) {
	if len(s) > maxReference {
		return Reference{}, fmt.Errorf("image reference of %d bytes is too long (at most %d): %w", len(s), maxReference, errdefs.ErrInvalidArgument)
	}
	named, err := reference.ParseDockerRef(s)
	if err != nil {
		return Reference{}, fmt.Errorf("image reference %q is malformed (%w), it should look like registry.example/repo/name:tag: %w", s, err, errdefs.ErrInvalidArgument)
	}
	r := Reference{repo: named.Name(), domain: reference.Domain(named)}
	if t, ok := named.(reference.Tagged); ok {
		r.tag = t.Tag()
	}
	if d, ok := named.(reference.Digested); ok {
		r.digest = d.Digest()
		if err := r.digest.Validate(); err != nil {
			return Reference{}, fmt.Errorf("image reference %q has a digest that cannot be checked (%w): %w", s, err, errdefs.ErrInvalidArgument)
		}
	}
	return r, nil
}

// String is the full form; a digest wins over a tag, as it says more.
func (r Reference) String() string {
	if r.digest != "" {
		return r.repo + "@" + r.digest.String()
	}
	return r.repo + ":" + r.tag
}

// withDigest is the same repository by digest.
func (r Reference) withDigest(d digest.Digest) string { return r.repo + "@" + d.String() }

// NormaliseReference gives the full form of a reference; a malformed one is errdefs.ErrInvalidArgument.
func NormaliseReference(s string) (string, error) {
	r, err := ParseReference(s)
	if err != nil {
		return "", err
	}
	return r.String(), nil
}

// isDigestName says whether a stored name is a reference by digest.
func isDigestName(name string) bool { return strings.Contains(name, "@") }

// isIDName says whether a stored name is an image ID: the name of an image that has no other.
func isIDName(name string) bool { return strings.HasPrefix(name, "sha256:") }
