package client

import (
	"context"
	"sync"

	"github.com/distribution/reference"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
)

// Pull pulls ref and gives the image's ID. progress, if not nil, is called with each news of it, from one goroutine and not
// after Pull has returned. A daemon that cannot tell its progress is no error.
func (c *Client) Pull(ctx context.Context, ref string, auth *runtime.AuthConfig, progress func(*pouchv1.Pull)) (string, error) {
	watching, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	if progress != nil {
		wg.Go(func() { c.watchPull(watching, ref, progress) })
	}
	resp, err := c.Images.PullImage(ctx, &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: ref, UserSpecifiedImage: ref}, Auth: auth})
	stop()
	wg.Wait()
	return resp.GetImageRef(), err
}

func (c *Client) watchPull(ctx context.Context, ref string, progress func(*pouchv1.Pull)) {
	// The daemon may know the pull by its full reference: all are watched, and compared here.
	stream, err := c.Pouch.WatchPulls(ctx, &pouchv1.WatchPullsRequest{})
	if err != nil {
		return
	}
	for {
		resp, err := stream.Recv()
		if err != nil {
			return
		}
		for _, p := range resp.GetPulls() {
			if p.GetReference() == ref || p.GetReference() == fullReference(ref) {
				progress(p)
			}
		}
	}
}

// fullReference adds what a short reference leaves out; what cannot be read stays as it is.
func fullReference(ref string) string {
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return ref
	}
	return named.String()
}

// Image finds an image by what the daemon takes: name, ID, or the beginning of an ID.
func (c *Client) Image(ctx context.Context, ref string, verbose bool) (*runtime.ImageStatusResponse, error) {
	resp, err := c.Images.ImageStatus(ctx, &runtime.ImageStatusRequest{Image: &runtime.ImageSpec{Image: ref}, Verbose: verbose})
	if err != nil {
		return nil, err
	}
	if resp.GetImage() == nil {
		return nil, &NotFoundError{Kind: "image", Ref: ref}
	}
	return resp, nil
}
