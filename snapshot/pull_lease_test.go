package snapshot

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestWhichFailuresARetryMayGoOnFrom(t *testing.T) {
	layer := ocispec.Descriptor{Digest: digest.FromString("x"), Size: 1}
	file := func(e syscall.Errno) error { return &os.PathError{Op: "write", Path: "/x", Err: e} }
	ended := func(cause error) context.Context {
		ctx, cancel := context.WithCancelCause(context.Background())
		cancel(cause)
		return ctx
	}
	for name, c := range map[string]struct {
		ctx  context.Context
		err  error
		want bool
	}{
		"connection refused":        {nil, &url.Error{Op: "Get", Err: &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}}, true},
		"cut off":                   {nil, transferError("layer", layer, io.ErrUnexpectedEOF), true},
		"stalled":                   {ended(errStalled), context.Canceled, true},
		"nobody waits":              {ended(errAbandoned), context.Canceled, true},
		"daemon goes down":          {ended(errClosing), context.Canceled, true},
		"stream of layer too short": {nil, imageError(errdefs.ErrDataLoss, "the gzip stream is damaged (%w)", io.ErrUnexpectedEOF), false},
		"wrong digest":              {nil, imageError(errdefs.ErrDataLoss, "something else (%w)", errWrongDigest), false},
		"platform":                  {nil, imageError(errdefs.ErrNotFound, "not for this platform"), false},
		"full disk":                 {nil, file(syscall.ENOSPC), false},
		"full disk, nobody waits":   {ended(errAbandoned), file(syscall.ENOSPC), false},
		"broken disk":               {nil, file(syscall.EIO), false},
	} {
		t.Run(name, func(t *testing.T) {
			if c.ctx == nil {
				c.ctx = context.Background()
			}
			err := pullError(c.ctx, "r.example/app:1", fmt.Errorf("fetch: %w", c.err))
			if got := mayGoOn(c.ctx, err); got != c.want {
				t.Errorf("%v, want %v: %v", got, c.want, err)
			}
		})
	}
}
