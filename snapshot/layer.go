package snapshot

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// maxWindow bounds the memory that a zstd stream may ask for, in bytes; what the zstd program makes stays below.
const maxWindow = 128 << 20

// unpackLayer unpacks the blob ra into dir and gives the digest of its tar. upper says that there are layers below, so
// that whiteouts have something to hide.
func unpackLayer(ctx context.Context, ra content.ReaderAt, dir string, upper bool, alg digest.Algorithm) (tree, digest.Digest, error) {
	plain, closer, err := decompress(bufio.NewReaderSize(io.NewSectionReader(ra, 0, ra.Size()), 256<<10))
	if err != nil {
		return tree{}, "", err
	}
	defer closer()
	sum := alg.Digester()
	stream := &summed{ctx: ctx, r: plain, h: sum.Hash()}
	in := bufio.NewReaderSize(stream, 128<<10)
	t, err := untar(in, dir, upper)
	if err == nil {
		_, err = io.Copy(io.Discard, in) // padding belongs to the digest
	}
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return tree{}, "", err
	}
	return t, sum.Digest(), nil
}

// summed hashes what is read, and stops when its context ends.
type summed struct {
	ctx context.Context
	r   io.Reader
	h   hash.Hash
}

func (s *summed) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := s.r.Read(p)
	s.h.Write(p[:n])
	return n, err
}

var (
	gzipMagic = []byte{0x1f, 0x8b}
	zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}
)

// decompress gives the plain stream of in, by its first bytes and not by what a media type claims. closer frees it.
func decompress(in *bufio.Reader) (plain io.Reader, closer func(), err error) {
	head, err := in.Peek(4)
	if err != nil && err != io.EOF {
		return nil, nil, err
	}
	switch {
	case bytes.HasPrefix(head, gzipMagic):
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, nil, imageError(errdefs.ErrDataLoss, "the gzip stream is damaged (%w)", err)
		}
		return z, func() { _ = z.Close() }, nil
	case bytes.HasPrefix(head, zstdMagic):
		z, err := zstd.NewReader(in, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, nil, imageError(errdefs.ErrDataLoss, "the zstd stream is damaged (%w)", err)
		}
		return z, z.Close, nil
	}
	return in, func() {}, nil
}

// syncFilesystem writes out everything of the filesystem that dir is on (syncfs(2)); write errors of the past show too.
func syncFilesystem(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("sync the filesystem of %s: %w", dir, err)
	}
	return nil
}
