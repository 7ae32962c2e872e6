package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/remotes"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cri-pouch/cri-pouch/engine"
	"github.com/cri-pouch/cri-pouch/internal/failpoint"
)

// readDocument reads an index, manifest or configuration from the store.
func (s *Store) readDocument(ctx context.Context, d ocispec.Descriptor) ([]byte, error) {
	info, err := s.eng.Content.Info(ctx, d.Digest)
	if err != nil {
		return nil, err
	}
	if info.Size > maxDocument {
		return nil, imageError(errdefs.ErrInvalidArgument, "document %s has %d bytes, more than the %d that are accepted", d.Digest, info.Size, maxDocument)
	}
	d.Data = nil
	raw, err := content.ReadBlob(ctx, s.eng.Content, d)
	if err != nil {
		return nil, fmt.Errorf("read document %s: %w", d.Digest, err)
	}
	if d.Digest.Algorithm().FromBytes(raw) != d.Digest {
		return nil, imageError(errdefs.ErrDataLoss, "document %s in the store is damaged, remove the image and pull it again", d.Digest)
	}
	return raw, nil
}

// fetchDocument gives a document from the store, or else from the registry; it is not stored yet.
func (s *Store) fetchDocument(ctx context.Context, f remotes.Fetcher, d ocispec.Descriptor, pr *progress) ([]byte, error) {
	if raw, err := s.readDocument(ctx, d); err == nil {
		return raw, nil
	}
	d.URLs, d.Data = nil, nil // the registry serves it, nobody else
	pr.active.Add(1)
	defer pr.active.Add(-1)
	rc, err := f.Fetch(ctx, d)
	if err != nil {
		return nil, fmt.Errorf("fetch document %s: %w", d.Digest, err)
	}
	defer rc.Close()
	pr.total.Add(d.Size)
	raw, err := io.ReadAll(io.LimitReader(counted{rc, pr}, maxDocument+1))
	if err != nil {
		return nil, transferError("document", d, err)
	}
	if len(raw) > maxDocument {
		return nil, imageError(errdefs.ErrInvalidArgument, "document %s has more than the %d bytes that are accepted", d.Digest, maxDocument)
	}
	if d.Digest.Algorithm().FromBytes(raw) != d.Digest {
		return nil, imageError(errdefs.ErrDataLoss, "the registry sent something else than document %s", d.Digest)
	}
	return raw, nil
}

// transferError tells a transfer that ended early from other failures.
func transferError(what string, d ocispec.Descriptor, err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return imageError(errdefs.ErrDataLoss, "the registry sent only a part of %s %s (%d bytes): pull again, it goes on from there (%w: %w)", what, d.Digest, d.Size, errCutOff, err)
	}
	return fmt.Errorf("fetch %s %s: %w", what, d.Digest, err)
}

// storeDocuments stores the documents of p with the labels by which garbage collection keeps what they name.
func (s *Store) storeDocuments(ctx context.Context, p *plan) error {
	configLabels := map[string]string{}
	if chain := p.chain(); chain != "" {
		configLabels["containerd.io/gc.ref.snapshot."+engine.Snapshotter] = chain
	}
	if err := s.storeDocument(ctx, p.config, configLabels); err != nil {
		return err
	}
	manifestLabels := map[string]string{"containerd.io/gc.ref.content.config": p.config.desc.Digest.String()}
	for i, l := range p.layers {
		manifestLabels[fmt.Sprintf("containerd.io/gc.ref.content.l.%d", i)] = l.Digest.String()
	}
	if err := s.storeDocument(ctx, p.manifest, manifestLabels); err != nil {
		return err
	}
	child := p.manifest.desc.Digest
	for i := len(p.indexes) - 1; i >= 0; i-- {
		if err := s.storeDocument(ctx, p.indexes[i], map[string]string{"containerd.io/gc.ref.content.m.0": child.String()}); err != nil {
			return err
		}
		child = p.indexes[i].desc.Digest
	}
	return nil
}

func (s *Store) storeDocument(ctx context.Context, d document, labels map[string]string) error {
	free, err := s.blobs.lock(ctx, d.desc.Digest.String())
	if err != nil {
		return err
	}
	defer free()
	d.desc.Data, d.desc.URLs = nil, nil
	d.desc.Size = int64(len(d.raw))
	ref := "document-" + d.desc.Digest.String()
	cw, err := content.OpenWriter(ctx, s.eng.Content, content.WithRef(ref), content.WithDescriptor(d.desc))
	if err == nil {
		err = content.Copy(ctx, cw, bytes.NewReader(d.raw), d.desc.Size, d.desc.Digest, content.WithLabels(labels))
		_ = cw.Close()
	}
	if errdefs.IsAlreadyExists(err) { // and is now in the lease; it may lack labels
		err = s.label(ctx, d.desc.Digest, labels)
	}
	if err != nil {
		return fmt.Errorf("store document %s: %w", d.desc.Digest, err)
	}
	return nil
}

// label adds labels to a blob that is there.
func (s *Store) label(ctx context.Context, d digest.Digest, labels map[string]string) error {
	if len(labels) == 0 {
		return nil
	}
	fields := make([]string, 0, len(labels))
	for k := range labels {
		fields = append(fields, "labels."+k)
	}
	_, err := s.eng.Content.Update(ctx, content.Info{Digest: d, Labels: labels}, fields...)
	return err
}

// fetchLayer brings a blob into the store and the lease of ctx. What an earlier try left of it is gone on with.
func (s *Store) fetchLayer(ctx context.Context, f remotes.Fetcher, d ocispec.Descriptor, pr *progress) error {
	free, err := s.blobs.lock(ctx, d.Digest.String())
	if err != nil {
		return err
	}
	defer free()
	if ok, err := s.lease(ctx, leases.Resource{ID: d.Digest.String(), Type: "content"}, func() error {
		_, err := s.eng.Content.Info(ctx, d.Digest)
		return err
	}); err != nil || ok {
		pr.done.Add(d.Size)
		return err
	}
	if f == nil {
		return imageError(errdefs.ErrNotFound, "layer %s is missing", d.Digest)
	}
	before := pr.done.Load()
	resumed, err := s.transfer(ctx, f, d, pr)
	if resumed && (errors.Is(err, errWrongDigest) || rangeRefused(err)) {
		// What an earlier process left may be damaged by a power cut, and not every registry begins in the middle: once
		// from the beginning.
		if err := s.abort(ctx, layerRef(d)); err != nil {
			return err
		}
		pr.done.Store(before) // other layers' progress shows again with their next bytes
		_, err = s.transfer(ctx, f, d, pr)
	}
	if err == nil {
		failpoint.Hit("pull.fetched")
	}
	return err
}

var errWrongDigest = errors.New("wrong digest")

func rangeRefused(err error) bool {
	var status remoteerrors.ErrUnexpectedStatus
	return errors.As(err, &status) && status.StatusCode == http.StatusRequestedRangeNotSatisfiable
}

// layerRef is the name of a blob's transfer, the same for each process.
func layerRef(d ocispec.Descriptor) string { return "layer-" + d.Digest.String() }

// abort forgets what was transferred.
func (s *Store) abort(ctx context.Context, ref string) error {
	if err := s.eng.Content.Abort(context.WithoutCancel(ctx), ref); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("forget the unfinished transfer %s: %w", ref, err)
	}
	return nil
}

// transfer copies a blob from the registry. resumed says whether a part of it was there.
func (s *Store) transfer(ctx context.Context, f remotes.Fetcher, d ocispec.Descriptor, pr *progress) (resumed bool, err error) {
	pr.active.Add(1)
	defer pr.active.Add(-1)
	d.URLs, d.Data = nil, nil // an image may not send us to other servers
	ref := layerRef(d)
	cw, err := content.OpenWriter(ctx, s.eng.Content, content.WithRef(ref), content.WithDescriptor(d))
	if errdefs.IsAlreadyExists(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("store layer %s: %w", d.Digest, err)
	}
	defer cw.Close()
	if st, err := cw.Status(); err == nil {
		resumed = st.Offset > 0
	}
	rc, err := f.Fetch(ctx, d)
	if err != nil {
		return resumed, fmt.Errorf("fetch layer %s: %w", d.Digest, err)
	}
	defer rc.Close()
	err = content.Copy(ctx, cw, counted{rc, pr}, d.Size, d.Digest)
	if err != nil && errdefs.IsFailedPrecondition(err) { // more bytes than announced, or other ones: nothing of it is of use
		_ = cw.Close()
		err = errors.Join(err, s.abort(ctx, ref))
		return resumed, imageError(errdefs.ErrDataLoss, "the registry sent something else than layer %s (%w: %w)", d.Digest, errWrongDigest, err)
	}
	if isDiskFull(err) { // forgetting it frees space before it writes to the database, which needs some
		_ = cw.Close()
		err = errors.Join(err, s.abort(ctx, ref))
	}
	if err != nil {
		return resumed, transferError("layer", d, err)
	}
	return resumed, nil
}

// lease puts what exists says is there into the lease of ctx. It looks again afterwards: before it was leased, it may
// have been collected.
func (s *Store) lease(ctx context.Context, r leases.Resource, exists func() error) (bool, error) {
	for range 2 {
		err := exists()
		if errdefs.IsNotFound(err) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("look for %s: %w", r.ID, err)
		}
		id, ok := leases.FromContext(ctx)
		if !ok {
			return true, nil
		}
		if err := s.eng.Leases.AddResource(ctx, leases.Lease{ID: id}, r); err != nil {
			return false, fmt.Errorf("hold %s: %w", r.ID, err)
		}
	}
	return true, nil
}
