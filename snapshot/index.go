package snapshot

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// minPrefix is the least number of hex digits that an image is found by.
const minPrefix = 3

var hexPrefix = regexp.MustCompile(`^[0-9a-f]+$`)

// index has the images in memory, so that lists and lookups touch no disk. An image is in it as long as it has a name.
type index struct {
	pinned map[string]bool

	mu     sync.RWMutex
	images map[string]*indexed // by ID
	names  map[string]named    // by stored name
}

type indexed struct {
	image Image // without names
	names map[string]bool
}

type named struct {
	id     string
	target digest.Digest
}

func newIndex(pinned map[string]bool) *index {
	return &index{pinned: pinned, images: map[string]*indexed{}, names: map[string]named{}}
}

func parsePinned(refs []string) (map[string]bool, error) {
	pinned := map[string]bool{}
	for _, s := range refs {
		r, err := ParseReference(s)
		if err != nil {
			return nil, fmt.Errorf("pinned image: %w", err)
		}
		pinned[r.String()] = true
	}
	return pinned, nil
}

// put gives img the names, taking them from whatever had them.
func (x *index) put(img Image, target ocispec.Descriptor, names []string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, n := range names {
		x.dropName(n)
	}
	e := x.images[img.ID]
	if e == nil {
		e = &indexed{names: map[string]bool{}}
		x.images[img.ID] = e
	}
	e.image = img
	for _, n := range names {
		e.names[n] = true
		x.names[n] = named{img.ID, target.Digest}
	}
}

// drop takes the image and all its names away.
func (x *index) drop(id string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if e := x.images[id]; e != nil {
		for n := range maps.Clone(e.names) {
			x.dropName(n)
		}
	}
}

// dropName takes a name away, and its image if that was the last one. The lock is held.
func (x *index) dropName(name string) {
	of, ok := x.names[name]
	if !ok {
		return
	}
	delete(x.names, name)
	e := x.images[of.id]
	delete(e.names, name)
	if len(e.names) == 0 {
		delete(x.images, of.id)
	}
}

// namesOf gives the stored names of an image.
func (x *index) namesOf(id string) []string {
	x.mu.RLock()
	defer x.mu.RUnlock()
	e := x.images[id]
	if e == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(e.names))
}

// has gives the image if name is a name of it and leads to target.
func (x *index) has(name string, target digest.Digest) (Image, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	n, ok := x.names[name]
	if !ok || n.target != target {
		return Image{}, false
	}
	return x.view(x.images[n.id]), true
}

// view is an image as the outside sees it. The lock is held.
func (x *index) view(e *indexed) Image {
	img := e.image
	img.RepoTags, img.RepoDigests = nil, nil
	for _, n := range slices.Sorted(maps.Keys(e.names)) {
		switch {
		case isIDName(n):
		case isDigestName(n):
			img.RepoDigests = append(img.RepoDigests, n)
		default:
			img.RepoTags = append(img.RepoTags, n)
		}
		img.Pinned = img.Pinned || x.pinned[n]
	}
	return img
}

func (x *index) list() []Image {
	x.mu.RLock()
	defer x.mu.RUnlock()
	all := make([]Image, 0, len(x.images))
	for _, e := range x.images {
		all = append(all, x.view(e))
	}
	slices.SortFunc(all, func(a, b Image) int { return cmp.Compare(a.ID, b.ID) })
	return all
}

// get finds an image by its ID, then by reference, then by a unique prefix of its ID.
func (x *index) get(refOrID string) (Image, error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	hex := strings.TrimPrefix(refOrID, "sha256:")
	if e := x.images["sha256:"+hex]; e != nil {
		return x.view(e), nil
	}
	ref, refErr := ParseReference(refOrID)
	if refErr == nil {
		if n, ok := x.names[ref.String()]; ok {
			return x.view(x.images[n.id]), nil
		}
	}
	if len(hex) >= minPrefix && len(hex) <= 64 && hexPrefix.MatchString(hex) {
		return x.byPrefix(refOrID, hex)
	}
	if refErr != nil {
		return Image{}, refErr
	}
	return Image{}, fmt.Errorf("image %s: %w", ref, errdefs.ErrNotFound)
}

func (x *index) byPrefix(asked, hex string) (Image, error) {
	var found *indexed
	for id, e := range x.images {
		if !strings.HasPrefix(id, "sha256:"+hex) {
			continue
		}
		if found != nil {
			return Image{}, fmt.Errorf("image ID %q fits more than one image, give more digits: %w", asked, errdefs.ErrInvalidArgument)
		}
		found = e
	}
	if found == nil {
		return Image{}, fmt.Errorf("image %s: %w", asked, errdefs.ErrNotFound)
	}
	return x.view(found), nil
}

// loadImages rebuilds the index from the metadata database. What is not complete (its removal or its pull was cut off,
// or its content is damaged) is not shown: a pull makes it whole.
func (s *Store) loadImages(ctx context.Context) error {
	all, err := s.eng.Images.List(ctx)
	if err != nil {
		return fmt.Errorf("list images: %w", err)
	}
	for _, rec := range all {
		p, err := s.storedPlan(ctx, rec.Target)
		if err != nil {
			s.log.WithError(err).WithField("image", rec.Name).Warn("image is incomplete and not shown, pull it again")
			continue
		}
		s.index.put(p.describe(), rec.Target, []string{rec.Name})
	}
	return nil
}

// storedPlan takes an image apart that is in the store with everything it needs.
func (s *Store) storedPlan(ctx context.Context, target ocispec.Descriptor) (*plan, error) {
	p, err := readPlan(ctx, target, s.readDocument)
	if err != nil {
		return nil, err
	}
	if chain := p.chain(); chain != "" {
		if _, err := s.eng.Snapshots.Stat(ctx, chain); err != nil {
			return nil, fmt.Errorf("look up topmost layer: %w", err)
		}
	}
	return p, nil
}

func (p *plan) describe() Image {
	return Image{ID: p.id(), Size: p.size(), Manifest: p.manifest.desc.Digest.String(), ChainID: p.chain(), Config: p.image}
}
