package lab

import (
	"context"
	"io"
	"os"
	"sync"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// fileLayer is an uncompressed layer whose tar stays in its file, however many registries serve it.
type fileLayer struct {
	path   string
	digest v1.Hash
	size   int64
}

// Digest is that of the file.
func (l *fileLayer) Digest() (v1.Hash, error) { return l.digest, nil }

// DiffID is the digest: nothing is compressed.
func (l *fileLayer) DiffID() (v1.Hash, error) { return l.digest, nil }

// Compressed opens the file.
func (l *fileLayer) Compressed() (io.ReadCloser, error) { return os.Open(l.path) }

// Uncompressed opens the file.
func (l *fileLayer) Uncompressed() (io.ReadCloser, error) { return os.Open(l.path) }

// Size is that of the file, in bytes.
func (l *fileLayer) Size() (int64, error) { return l.size, nil }

// MediaType says that the layer is a plain tar.
func (l *fileLayer) MediaType() (types.MediaType, error) { return types.OCIUncompressedLayer, nil }

// blobs is the registry's store: in memory what was pushed, in their files the layers that have one.
type blobs struct {
	registry.BlobHandler
	mu    sync.Mutex
	files map[v1.Hash]*fileLayer
}

func newBlobs() *blobs {
	return &blobs{BlobHandler: registry.NewInMemoryBlobHandler(), files: map[v1.Hash]*fileLayer{}}
}

// lend makes the store answer for the layers of img that have a file, so that a push skips them.
func (b *blobs) lend(img v1.Image) error {
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range layers {
		if f, ok := l.(*fileLayer); ok {
			b.files[f.digest] = f
		}
	}
	return nil
}

func (b *blobs) file(h v1.Hash) *fileLayer {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.files[h]
}

// Get opens a blob.
func (b *blobs) Get(ctx context.Context, repo string, h v1.Hash) (io.ReadCloser, error) {
	if f := b.file(h); f != nil {
		return f.Compressed()
	}
	return b.BlobHandler.Get(ctx, repo, h)
}

// Stat gives a blob's size.
func (b *blobs) Stat(ctx context.Context, repo string, h v1.Hash) (int64, error) {
	if f := b.file(h); f != nil {
		return f.size, nil
	}
	return b.BlobHandler.(registry.BlobStatHandler).Stat(ctx, repo, h)
}

// Put stores a blob in memory.
func (b *blobs) Put(ctx context.Context, repo string, h v1.Hash, rc io.ReadCloser) error {
	return b.BlobHandler.(registry.BlobPutHandler).Put(ctx, repo, h, rc)
}

// Delete removes a blob that was pushed.
func (b *blobs) Delete(ctx context.Context, repo string, h v1.Hash) error {
	return b.BlobHandler.(registry.BlobDeleteHandler).Delete(ctx, repo, h)
}
