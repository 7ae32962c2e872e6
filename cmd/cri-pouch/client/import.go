package client

import (
	"context"
	"errors"
	"fmt"
	"io"

	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
)

// importChunk is what one message of an import carries, in bytes; the daemon takes up to 1 MiB.
const importChunk = 512 << 10

// Import sends the tar stream of an OCI layout or docker archive and gives the images that were in it.
func (c *Client) Import(ctx context.Context, tar io.Reader) ([]*pouchv1.ImportedImage, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.Pouch.ImportImage(ctx)
	if err != nil {
		return nil, err
	}
	buf := make([]byte, importChunk)
	for {
		n, readErr := io.ReadFull(tar, buf)
		if n > 0 {
			// io.EOF says that the daemon has answered already: CloseAndRecv has the reason.
			if err := stream.Send(&pouchv1.ImportImageRequest{Chunk: buf[:n]}); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return nil, err
			}
		}
		if errors.Is(readErr, io.EOF) || errors.Is(readErr, io.ErrUnexpectedEOF) {
			break
		}
		if readErr != nil {
			return nil, fmt.Errorf("read the archive: %w", readErr)
		}
	}
	resp, err := stream.CloseAndRecv()
	return resp.GetImages(), err
}
