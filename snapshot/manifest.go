package snapshot

import (
	"context"
	"encoding/json"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Bounds of what a registry or an archive may make us hold in memory or mount.
const (
	maxDocument  = 8 << 20 // bytes of an index, manifest or configuration
	maxIndexes   = 3       // indexes in indexes
	maxManifests = 4096    // entries of an index
	// maxLayers keeps the mount options of a root filesystem within one page (mount(2)) with relative paths.
	maxLayers = 300
)

// documents gives the bytes of an index, manifest or configuration whose digest has been checked.
type documents func(ctx context.Context, d ocispec.Descriptor) ([]byte, error)

// plan is an image taken apart: its documents from the one that its name leads to down to the configuration, and its
// layers, bottom first.
type plan struct {
	target   ocispec.Descriptor
	indexes  []document
	manifest document
	config   document
	image    ocispec.Image
	layers   []ocispec.Descriptor
	chains   []digest.Digest // chain ID of each layer
}

type document struct {
	desc ocispec.Descriptor
	raw  []byte
}

// id is the image's ID.
func (p *plan) id() string { return p.config.desc.Digest.String() }

// chain is the key of the topmost snapshot; empty for an image without layers.
func (p *plan) chain() string {
	if len(p.chains) == 0 {
		return ""
	}
	return p.chains[len(p.chains)-1].String()
}

// size is what the image takes as transferred, in bytes.
func (p *plan) size() int64 {
	n := p.manifest.desc.Size + p.config.desc.Size
	for _, l := range p.layers {
		n += l.Size
	}
	return n
}

// readPlan follows target to the manifest and configuration of this machine's platform.
func readPlan(ctx context.Context, target ocispec.Descriptor, get documents) (*plan, error) {
	p := &plan{target: target}
	d := target
	for {
		raw, err := getDocument(ctx, d, get)
		if err != nil {
			return nil, err
		}
		kind, err := documentKind(d, raw)
		if err != nil {
			return nil, err
		}
		if images.IsManifestType(kind) {
			d.MediaType = kind
			p.manifest = document{d, raw}
			break
		}
		if len(p.indexes) == maxIndexes {
			return nil, imageError(errdefs.ErrInvalidArgument, "more than %d indexes lie in each other", maxIndexes)
		}
		p.indexes = append(p.indexes, document{d, raw})
		if d, err = choose(raw, platforms.Default()); err != nil {
			return nil, err
		}
	}
	return p, p.readManifest(ctx, get)
}

func getDocument(ctx context.Context, d ocispec.Descriptor, get documents) ([]byte, error) {
	if err := d.Digest.Validate(); err != nil {
		return nil, imageError(errdefs.ErrInvalidArgument, "the image names a document by the malformed digest %q (%v)", d.Digest, err)
	}
	if d.Size < 0 || d.Size > maxDocument {
		return nil, imageError(errdefs.ErrInvalidArgument, "document %s has %d bytes, more than the %d that are accepted", d.Digest, d.Size, maxDocument)
	}
	return get(ctx, d)
}

// documentKind gives the media type of an index or manifest. One that reads as both is refused: clients that take it
// for different things would run different images (CVE-2021-41190).
func documentKind(d ocispec.Descriptor, raw []byte) (string, error) {
	var doc struct {
		MediaType string            `json:"mediaType"`
		Config    json.RawMessage   `json:"config"`
		Layers    []json.RawMessage `json:"layers"`
		Manifests []json.RawMessage `json:"manifests"`
		FSLayers  []json.RawMessage `json:"fsLayers"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return "", imageError(errdefs.ErrInvalidArgument, "document %s is no JSON (%v)", d.Digest, err)
	}
	isIndex, isManifest := doc.Manifests != nil, doc.Config != nil || doc.Layers != nil
	kind := d.MediaType
	if !images.IsIndexType(kind) && !images.IsManifestType(kind) {
		kind = doc.MediaType
	}
	switch {
	case doc.FSLayers != nil:
		return "", imageError(errdefs.ErrNotImplemented, "the image has the old manifest format (schema 1): push it again with a current tool")
	case isIndex && isManifest:
		return "", imageError(errdefs.ErrInvalidArgument, "document %s is index and manifest at once", d.Digest)
	case doc.MediaType != "" && doc.MediaType != kind:
		return "", imageError(errdefs.ErrInvalidArgument, "document %s calls itself %q but was announced as %q", d.Digest, doc.MediaType, d.MediaType)
	case images.IsIndexType(kind) && isIndex, images.IsManifestType(kind) && isManifest:
		return kind, nil
	case kind == "" && isIndex:
		return ocispec.MediaTypeImageIndex, nil
	case kind == "" && isManifest:
		return ocispec.MediaTypeImageManifest, nil
	}
	return "", imageError(errdefs.ErrInvalidArgument, "document %s (%s) is neither an image nor an index of images", d.Digest, kind)
}

// choose gives the entry of an index that fits m best.
func choose(raw []byte, m platforms.MatchComparer) (ocispec.Descriptor, error) {
	var index ocispec.Index
	if err := json.Unmarshal(raw, &index); err != nil {
		return ocispec.Descriptor{}, imageError(errdefs.ErrInvalidArgument, "the image's index cannot be read (%v)", err)
	}
	if len(index.Manifests) > maxManifests {
		return ocispec.Descriptor{}, imageError(errdefs.ErrInvalidArgument, "the image's index has %d entries, at most %d are accepted", len(index.Manifests), maxManifests)
	}
	var fit []ocispec.Descriptor
	var have []string
	for _, d := range index.Manifests {
		if !images.IsManifestType(d.MediaType) && !images.IsIndexType(d.MediaType) {
			continue
		}
		if d.Platform == nil { // the configuration tells
			fit = append(fit, d)
			continue
		}
		if m.Match(*d.Platform) {
			fit = append(fit, d)
		}
		if d.Platform.OS != "unknown" { // attestations
			have = append(have, platforms.FormatAll(*d.Platform))
		}
	}
	if len(fit) == 0 {
		return ocispec.Descriptor{}, imageError(errdefs.ErrNotFound, "the image does not exist for this machine's platform %s; it exists for: %s", platforms.DefaultString(), strings.Join(have, ", "))
	}
	slices.SortStableFunc(fit, func(a, b ocispec.Descriptor) int {
		switch {
		case a.Platform == nil && b.Platform == nil:
			return 0
		case a.Platform == nil:
			return 1
		case b.Platform == nil:
			return -1
		case m.Less(*a.Platform, *b.Platform):
			return -1
		case m.Less(*b.Platform, *a.Platform):
			return 1
		}
		return 0
	})
	return fit[0], nil
}

// readManifest reads manifest and configuration and checks that they fit each other and this machine.
func (p *plan) readManifest(ctx context.Context, get documents) error {
	var m ocispec.Manifest
	if err := json.Unmarshal(p.manifest.raw, &m); err != nil {
		return imageError(errdefs.ErrInvalidArgument, "the image's manifest %s cannot be read (%v)", p.manifest.desc.Digest, err)
	}
	if !images.IsConfigType(m.Config.MediaType) {
		return imageError(errdefs.ErrInvalidArgument, "this is an artifact of type %q, not an image that can run", m.Config.MediaType)
	}
	raw, err := getDocument(ctx, m.Config, get)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, &p.image); err != nil {
		return imageError(errdefs.ErrInvalidArgument, "the image's configuration %s cannot be read (%v)", m.Config.Digest, err)
	}
	p.config, p.layers = document{m.Config, raw}, m.Layers
	return p.check()
}

func (p *plan) check() error {
	of := platforms.Normalize(p.image.Platform)
	if !platforms.Default().Match(of) {
		return imageError(errdefs.ErrNotFound, "the image is for platform %s/%s, this machine is %s", p.image.OS, p.image.Architecture, platforms.DefaultString())
	}
	if user := p.image.Config.User; !userFits(user) {
		return imageError(errdefs.ErrInvalidArgument, "the image's USER %.100q is no user ID: numbers go from 0 to %d", user, maxUser)
	}
	diffs := p.image.RootFS.DiffIDs
	if len(diffs) != len(p.layers) {
		return imageError(errdefs.ErrInvalidArgument, "the image has %d layers but its configuration speaks of %d", len(p.layers), len(diffs))
	}
	if len(diffs) > maxLayers {
		return imageError(errdefs.ErrInvalidArgument, "the image has %d layers, at most %d can be mounted", len(diffs), maxLayers)
	}
	for i, l := range p.layers {
		if err := l.Digest.Validate(); err != nil || l.Size < 0 {
			return imageError(errdefs.ErrInvalidArgument, "layer %d of the image has the malformed digest %q or size %d", i, l.Digest, l.Size)
		}
		if err := diffs[i].Validate(); err != nil {
			return imageError(errdefs.ErrInvalidArgument, "layer %d of the image has the malformed diff ID %q", i, diffs[i])
		}
		if !knownLayer(l.MediaType) {
			return imageError(errdefs.ErrNotImplemented, "layer %d of the image has type %q, which cannot be unpacked", i, l.MediaType)
		}
	}
	p.chains = identity.ChainIDs(slices.Clone(diffs))
	return nil
}

// maxUser is the greatest user and group ID that libcontainer accepts.
const maxUser = math.MaxInt32

// userFits says whether the numbers of USER[:GROUP] are IDs. One that is cut to 32 bits can become root's
// (CVE-2024-40635).
func userFits(user string) bool {
	for _, part := range strings.SplitN(user, ":", 2) {
		if !allDigits.MatchString(part) {
			continue
		}
		if n, err := strconv.ParseInt(part, 10, 64); err != nil || n < 0 || n > maxUser {
			return false
		}
	}
	return true
}

var allDigits = regexp.MustCompile(`^[+-]?[0-9]+$`)

// knownLayer says whether a layer of that type is a tar, plain or compressed. What compression it really has is seen
// from its first bytes.
func knownLayer(mediaType string) bool {
	base, _, _ := strings.Cut(mediaType, "+")
	switch base {
	case ocispec.MediaTypeImageLayer, images.MediaTypeDockerSchema2Layer, images.MediaTypeDockerSchema2LayerGzip, images.MediaTypeDockerSchema2LayerZstd,
		"application/vnd.oci.image.layer.nondistributable.v1.tar", images.MediaTypeDockerSchema2LayerForeign, images.MediaTypeDockerSchema2LayerForeignGzip:
		return !strings.Contains(mediaType, "encrypted")
	}
	return false
}
