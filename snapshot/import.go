package snapshot

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxImages bounds the images of one archive.
const maxImages = 1000

// Import loads the images of an OCI layout or of a docker archive (docker save), as a tar that may be compressed, and
// gives those that fit this machine. They get the names that the archive says, or only their ID. Nothing is left of an
// import that fails. Errors: errdefs.ErrInvalidArgument, ErrDataLoss, ErrNotFound (platform), ErrResourceExhausted.
func (s *Store) Import(ctx context.Context, archive io.Reader) (_ []Image, err error) {
	ctx = s.eng.With(ctx)
	id := "import-" + randomHex()
	free, err := s.takeLease(ctx, id)
	if err != nil {
		return nil, err
	}
	defer func() {
		defer free()
		if dropErr := s.dropLease(context.WithoutCancel(ctx), id); dropErr != nil {
			s.log.WithError(dropErr).WithField("lease", id).Warn("what an import brought is dropped later")
		}
		if isDiskFull(err) {
			if err := s.eng.Reclaim(context.WithoutCancel(ctx)); err != nil {
				s.log.WithError(err).Warn("what a failed import brought is collected later")
			}
		}
	}()
	ctx = leases.WithLease(ctx, id)
	plain, closer, err := decompress(bufio.NewReaderSize(archive, 256<<10))
	if err != nil {
		return nil, importError(err)
	}
	defer closer()
	b, err := s.readArchive(ctx, plain, id)
	if err != nil {
		return nil, importError(err)
	}
	found, err := b.images(ctx)
	if err != nil {
		return nil, importError(err)
	}
	imgs, err := s.loadFound(ctx, b, found)
	return imgs, importError(err)
}

func importError(err error) error {
	switch {
	case err == nil:
		return nil
	case isDiskFull(err):
		return fmt.Errorf("import images: the disk of the image store is full, free some space or remove images: %w: %w", errdefs.ErrResourceExhausted, err)
	}
	return fmt.Errorf("import images: %w", err)
}

// foundImage is one image of an archive with the names it has there.
type foundImage struct {
	target ocispec.Descriptor
	refs   []string
}

// loadFound unpacks and names the images. Those for other platforms are passed over, unless all are.
func (s *Store) loadFound(ctx context.Context, b *bundle, found []foundImage) ([]Image, error) {
	var imgs []Image
	var foreign error
	for _, f := range found {
		p, err := readPlan(ctx, f.target, b.document)
		if errdefs.IsNotFound(err) && isClassed(err) {
			foreign = err
			continue
		}
		if err != nil {
			return nil, err
		}
		names, err := importNames(p, f.refs)
		if err != nil {
			return nil, err
		}
		var pr progress
		if err := s.bring(ctx, p, nil, &pr); err != nil {
			return nil, err
		}
		img, err := s.name(ctx, p, names, "")
		if err != nil {
			return nil, err
		}
		imgs = append(imgs, img)
	}
	if len(imgs) == 0 && foreign == nil {
		foreign = imageError(errdefs.ErrInvalidArgument, "the archive has no images")
	}
	if len(imgs) > 0 {
		foreign = nil
	}
	return imgs, foreign
}

func importNames(p *plan, refs []string) ([]string, error) {
	if len(refs) == 0 {
		return []string{p.id()}, nil
	}
	var names []string
	for _, ref := range refs {
		r, err := ParseReference(ref)
		if err != nil {
			return nil, err
		}
		names = append(names, r.withDigest(p.target.Digest))
		if r.digest == "" {
			names = append(names, r.String())
		}
	}
	return names, nil
}

// images gives the images that the archive lists.
func (b *bundle) images(ctx context.Context) ([]foundImage, error) {
	found, err := b.layoutImages()
	if err == nil && found == nil {
		found, err = b.dockerImages(ctx)
	}
	if err == nil && len(found) > maxImages {
		err = imageError(errdefs.ErrInvalidArgument, "the archive has %d images, at most %d are accepted", len(found), maxImages)
	}
	return found, err
}

// layoutImages reads an OCI layout's index; nil where there is none.
func (b *bundle) layoutImages() ([]foundImage, error) {
	raw, ok := b.files[ocispec.ImageIndexFile]
	if !ok || b.files[ocispec.ImageLayoutFile] == nil {
		return nil, nil
	}
	var index ocispec.Index
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, imageError(errdefs.ErrInvalidArgument, "index.json cannot be read (%v)", err)
	}
	found := []foundImage{}
	for _, d := range index.Manifests {
		if d.MediaType != "" && !images.IsManifestType(d.MediaType) && !images.IsIndexType(d.MediaType) {
			continue
		}
		f := foundImage{target: d}
		for _, key := range []string{images.AnnotationImageName, ocispec.AnnotationRefName} {
			// A bare tag, as the specification allows, says nothing about the repository.
			if _, err := ParseReference(d.Annotations[key]); err == nil && hasRepository(d.Annotations[key]) {
				f.refs = append(f.refs, d.Annotations[key])
				break
			}
		}
		f.target.Annotations, f.target.Platform = nil, nil
		found = append(found, f)
	}
	return found, nil
}

func hasRepository(ref string) bool {
	for _, c := range ref {
		if c == '/' || c == ':' || c == '@' {
			return true
		}
	}
	return false
}

// dockerImages reads what docker save writes: manifest.json names configuration and layers by their files.
func (b *bundle) dockerImages(ctx context.Context) ([]foundImage, error) {
	raw, ok := b.files["manifest.json"]
	if !ok {
		return nil, imageError(errdefs.ErrInvalidArgument, "this is neither an OCI layout (index.json, oci-layout) nor a docker archive (manifest.json)")
	}
	var list []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, imageError(errdefs.ErrInvalidArgument, "manifest.json cannot be read (%v)", err)
	}
	var found []foundImage
	for _, m := range list {
		config, err := b.file(m.Config)
		if err != nil {
			return nil, err
		}
		config.MediaType = images.MediaTypeDockerSchema2Config
		man := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: images.MediaTypeDockerSchema2Manifest, Config: config, Layers: []ocispec.Descriptor{}}
		if len(m.Layers) > maxLayers {
			return nil, imageError(errdefs.ErrInvalidArgument, "an image of the archive has %d layers, at most %d can be mounted", len(m.Layers), maxLayers)
		}
		for _, name := range m.Layers {
			l, err := b.file(name)
			if err != nil {
				return nil, err
			}
			if l.MediaType, err = b.layerType(ctx, l); err != nil {
				return nil, err
			}
			man.Layers = append(man.Layers, l)
		}
		doc, err := json.Marshal(man)
		if err != nil {
			return nil, fmt.Errorf("write manifest: %w", err)
		}
		d := ocispec.Descriptor{MediaType: man.MediaType, Digest: digest.FromBytes(doc), Size: int64(len(doc))}
		b.made[d.Digest] = doc
		found = append(found, foundImage{target: d, refs: m.RepoTags})
	}
	return found, nil
}

// file gives the blob that a file of the archive became; links are followed within the archive.
func (b *bundle) file(name string) (ocispec.Descriptor, error) {
	name = path.Clean(name)
	for range maxLinks {
		if d, ok := b.blobs[name]; ok {
			return d, nil
		}
		next, ok := b.links[name]
		if !ok {
			break
		}
		name = next
	}
	return ocispec.Descriptor{}, imageError(errdefs.ErrInvalidArgument, "the archive has no file %.256q, which it speaks of", name)
}

// document gives a document of the archive, or one that was made for it.
func (b *bundle) document(ctx context.Context, d ocispec.Descriptor) ([]byte, error) {
	if raw, ok := b.made[d.Digest]; ok {
		return raw, nil
	}
	raw, err := b.s.readDocument(ctx, d)
	if errdefs.IsNotFound(err) && !isClassed(err) {
		return nil, imageError(errdefs.ErrInvalidArgument, "the archive has no document %s, which it speaks of", d.Digest)
	}
	return raw, err
}
