package cri

import (
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
	"github.com/cri-pouch/cri-pouch/snapshot"
)

// maxChunk bounds one message of an import, in bytes.
const maxChunk = 1 << 20

// ImportImage loads the images of an archive that the client streams.
func (s *Service) ImportImage(in grpc.ClientStreamingServer[pouchv1.ImportImageRequest, pouchv1.ImportImageResponse]) error {
	imgs, err := s.Images.Import(in.Context(), &chunks{in: in})
	if err != nil {
		return err
	}
	resp := &pouchv1.ImportImageResponse{}
	for _, img := range imgs {
		resp.Images = append(resp.Images, &pouchv1.ImportedImage{Name: importedName(img), Id: img.ID})
	}
	return in.SendAndClose(resp)
}

func importedName(img snapshot.Image) string {
	if len(img.RepoTags) > 0 {
		return img.RepoTags[0]
	}
	if len(img.RepoDigests) > 0 {
		return img.RepoDigests[0]
	}
	return img.ID
}

// chunks reads the messages of an import as one stream.
type chunks struct {
	in   grpc.ClientStreamingServer[pouchv1.ImportImageRequest, pouchv1.ImportImageResponse]
	rest []byte
}

func (c *chunks) Read(p []byte) (int, error) {
	for len(c.rest) == 0 {
		m, err := c.in.Recv()
		if errors.Is(err, io.EOF) {
			return 0, io.EOF
		}
		if err != nil {
			return 0, fmt.Errorf("receive the archive: %w", err)
		}
		if len(m.GetChunk()) > maxChunk {
			return 0, fmt.Errorf("a chunk of the archive has %d bytes, at most %d are accepted: %w", len(m.GetChunk()), maxChunk, errdefs.ErrInvalidArgument)
		}
		c.rest = m.GetChunk()
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}
