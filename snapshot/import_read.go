package snapshot

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxFiles bounds the files of an archive, whose names are held in memory.
const maxFiles = 100_000

// bundle is an archive whose files have become blobs of the store.
type bundle struct {
	s     *Store
	files map[string][]byte             // the documents that say what the others are
	blobs map[string]ocispec.Descriptor // by file name; digest and size only
	links map[string]string             // by file name
	made  map[digest.Digest][]byte      // documents that the archive has no file for
}

// readArchive stores the files of a tar under the lease of ctx. id makes the names of the transfers unique.
func (s *Store) readArchive(ctx context.Context, r io.Reader, id string) (*bundle, error) {
	b := &bundle{s: s, files: map[string][]byte{}, blobs: map[string]ocispec.Descriptor{}, links: map[string]string{}, made: map[digest.Digest][]byte{}}
	tr := tar.NewReader(r)
	for n := 0; ; n++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return b, nil
		}
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return nil, archiveError(err)
		}
		if n == maxFiles {
			return nil, imageError(errdefs.ErrInvalidArgument, "the archive has more than %d files", maxFiles)
		}
		if err := b.add(ctx, h, tr, fmt.Sprintf("%s-%d", id, n)); err != nil {
			return nil, fmt.Errorf("file %.256q of the archive: %w", h.Name, err)
		}
	}
}

func archiveError(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return imageError(errdefs.ErrDataLoss, "the archive is damaged or no tar (%w)", err)
}

func (b *bundle) add(ctx context.Context, h *tar.Header, r io.Reader, ref string) error {
	name := clean(h.Name)
	switch h.Typeflag {
	case tar.TypeSymlink:
		b.links[name] = clean(path.Join(path.Dir(name), h.Linkname))
		return nil
	case tar.TypeLink:
		b.links[name] = clean(h.Linkname)
		return nil
	case tar.TypeReg:
	default:
		return nil
	}
	switch name {
	case ocispec.ImageIndexFile, ocispec.ImageLayoutFile, "manifest.json":
		if h.Size > maxDocument {
			return imageError(errdefs.ErrInvalidArgument, "it has %d bytes, more than the %d that are accepted", h.Size, maxDocument)
		}
		raw, err := io.ReadAll(io.LimitReader(r, maxDocument))
		if err != nil {
			return archiveError(err)
		}
		b.files[name] = raw
		return nil
	}
	d, err := b.s.storeFile(ctx, r, h.Size, ref)
	if err != nil {
		return err
	}
	if alg, hex, ok := layoutBlob(name); ok && d.Digest.Algorithm().String() == alg && d.Digest.Encoded() != hex {
		return imageError(errdefs.ErrDataLoss, "its content has digest %s", d.Digest)
	}
	b.blobs[name] = d
	return nil
}

// layoutBlob takes the name of an OCI layout's blob apart.
func layoutBlob(name string) (alg, hex string, ok bool) {
	p := strings.Split(name, "/")
	if len(p) != 3 || p[0] != "blobs" {
		return "", "", false
	}
	return p[1], p[2], true
}

// storeFile makes a blob of a file.
func (s *Store) storeFile(ctx context.Context, r io.Reader, size int64, ref string) (ocispec.Descriptor, error) {
	cw, err := content.OpenWriter(ctx, s.eng.Content, content.WithRef(ref))
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("store: %w", err)
	}
	defer cw.Close()
	n, err := io.CopyBuffer(struct{ io.Writer }{cw}, struct{ io.Reader }{r}, make([]byte, copyBuffer))
	if err != nil {
		if abortErr := s.eng.Content.Abort(context.WithoutCancel(ctx), ref); abortErr != nil && !errdefs.IsNotFound(abortErr) {
			err = errors.Join(err, abortErr)
		}
		if isDiskFull(err) {
			return ocispec.Descriptor{}, err
		}
		return ocispec.Descriptor{}, archiveError(err)
	}
	d := ocispec.Descriptor{Digest: cw.Digest(), Size: n}
	if err := cw.Commit(ctx, size, d.Digest); err != nil && !errdefs.IsAlreadyExists(err) {
		return ocispec.Descriptor{}, fmt.Errorf("store: %w", err)
	}
	return d, nil
}

// layerType gives the media type of a layer by its first bytes.
func (b *bundle) layerType(ctx context.Context, d ocispec.Descriptor) (string, error) {
	ra, err := b.s.eng.Content.ReaderAt(ctx, d)
	if err != nil {
		return "", fmt.Errorf("read layer %s: %w", d.Digest, err)
	}
	defer ra.Close()
	head := make([]byte, 4)
	if _, err := ra.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read layer %s: %w", d.Digest, err)
	}
	switch {
	case string(head[:2]) == string(gzipMagic):
		return images.MediaTypeDockerSchema2LayerGzip, nil
	case string(head) == string(zstdMagic):
		return images.MediaTypeDockerSchema2LayerZstd, nil
	}
	return images.MediaTypeDockerSchema2Layer, nil
}

func isDiskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
