package snapshot

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"

	"github.com/cri-pouch/cri-pouch/internal/failpoint"
)

// Get finds an image by ID, reference or unique ID prefix of at least 3 digits. Errors: errdefs.ErrNotFound;
// errdefs.ErrInvalidArgument for what is neither, or for a prefix that fits several.
func (s *Store) Get(_ context.Context, refOrID string) (Image, error) { return s.index.get(refOrID) }

// List gives all images, ordered by ID.
func (s *Store) List(context.Context) ([]Image, error) { return s.index.list(), nil }

// Remove drops all names of the image and gives back the space of what nothing else uses before it returns. Containers on
// it are not touched: their records hold manifest and layers. An absent image is no error.
func (s *Store) Remove(ctx context.Context, refOrID string) error {
	found, err := s.unname(ctx, refOrID)
	if err != nil || !found {
		return err
	}
	failpoint.Hit("image.unnamed")
	s.usage.forget()
	// The kubelet measures the disk as soon as it has the answer, and evicts pods where that is still too full.
	if err := s.eng.Reclaim(ctx); err != nil {
		return fmt.Errorf("free the space of image %s, which is removed: %w", refOrID, err)
	}
	return nil
}

// unname takes all names of an image away and says whether there was one.
func (s *Store) unname(ctx context.Context, refOrID string) (bool, error) {
	s.naming.Lock()
	defer s.naming.Unlock()
	img, err := s.index.get(refOrID)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	names := s.index.namesOf(img.ID)
	err = s.eng.Update(ctx, func(ctx context.Context) error {
		for _, n := range names {
			if err := s.eng.Images.Delete(ctx, n); err != nil && !errdefs.IsNotFound(err) {
				return fmt.Errorf("remove name %s: %w", n, err)
			}
		}
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("remove image %s: %w", refOrID, err)
	}
	s.index.drop(img.ID)
	return true, nil
}

// name makes the image of p known under names, durably and in the index, and gives it as it is listed then. From then on
// the names hold everything: the lease of that ID, if any, is dropped in the same commit, so that a daemon that is killed
// afterwards leaves none that nobody asks for again.
func (s *Store) name(ctx context.Context, p *plan, names []string, lease string) (Image, error) {
	s.naming.Lock()
	defer s.naming.Unlock()
	err := s.eng.Update(ctx, func(ctx context.Context) error {
		for _, n := range names {
			rec := images.Image{Name: n, Target: p.target}
			_, err := s.eng.Images.Create(ctx, rec)
			if errdefs.IsAlreadyExists(err) {
				_, err = s.eng.Images.Update(ctx, rec, "target")
			}
			if err != nil {
				return fmt.Errorf("store name %s: %w", n, err)
			}
		}
		if lease == "" {
			return nil
		}
		return s.dropLease(ctx, lease)
	})
	if err != nil {
		return Image{}, err
	}
	s.index.put(p.describe(), p.target, names)
	s.usage.forget()
	return s.index.get(p.id())
}
