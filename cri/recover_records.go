package cri

import (
	"context"
	"fmt"

	"github.com/cri-pouch/cri-pouch/cri/model"
)

// sandboxRecords reads the records of all sandboxes. What the database has lost or damaged is taken from its copy, and put
// back; what neither tells is a finding.
func (s *Service) sandboxRecords(ctx context.Context) (map[string]model.Sandbox, error) {
	stored, err := s.Records.Sandboxes(ctx)
	if err != nil {
		return nil, fmt.Errorf("read sandbox records: %w", err)
	}
	r := recordReader[model.Sandbox]{s: s, kind: sandboxRecords, finding: sandboxRecord, decode: model.DecodeSandbox, restore: s.putSandbox}
	return r.read(ctx, stored)
}

// containerRecords does the same for containers. The root filesystem of one whose record was lost is known only by its
// mount, which lasts as long as it runs.
func (s *Service) containerRecords(ctx context.Context) (map[string]model.Container, error) {
	stored, err := s.Rootfs.Records(ctx)
	if err != nil {
		return nil, fmt.Errorf("read container records: %w", err)
	}
	restore := func(ctx context.Context, rec model.Container) error {
		if _, ok := stored[rec.ID]; ok {
			return s.putContainer(ctx, rec)
		}
		b, err := model.EncodeContainer(rec)
		if err != nil {
			return err
		}
		return s.Rootfs.Adopt(ctx, rec.ID, b)
	}
	r := recordReader[model.Container]{s: s, kind: containerRecords, finding: containerRecord, decode: model.DecodeContainer, restore: restore}
	return r.read(ctx, stored)
}

// recordReader reads the records of one kind.
type recordReader[T any] struct {
	s       *Service
	kind    recordKind
	finding findingKind
	decode  func(id string, b []byte) (T, error)
	restore func(ctx context.Context, rec T) error // puts a record that was read from its copy into the database
}

func (r recordReader[T]) read(ctx context.Context, stored map[string][]byte) (map[string]T, error) {
	copies, err := r.s.copies(r.kind)
	if err != nil {
		return nil, err
	}
	all := make(map[string]T, len(stored))
	for id, b := range stored {
		rec, err := r.decode(id, b)
		if err == nil {
			all[id] = rec
			if _, ok := copies[id]; !ok { // none is there after a reboot
				r.s.keepCopy(r.kind, id, b)
			}
			continue
		}
		if rec, ok := r.fromCopy(ctx, id, copies[id], err); ok {
			all[id] = rec
			continue
		}
		r.s.findings.add(finding{kind: r.finding, id: id, why: err.Error()})
	}
	for id, b := range copies {
		if _, ok := stored[id]; ok {
			continue
		}
		if rec, ok := r.fromCopy(ctx, id, b, fmt.Errorf("it is not in the database")); ok {
			all[id] = rec
		} else {
			r.s.findings.add(finding{kind: r.finding, id: id, why: "it is not in the database, and its copy " + r.s.copyPath(r.kind, id) + " cannot be read"})
		}
	}
	return all, nil
}

// fromCopy gives the record that its copy tells, and puts that into the database. A database that refuses it costs only that:
// the next start tries again.
func (r recordReader[T]) fromCopy(ctx context.Context, id string, b []byte, why error) (rec T, ok bool) {
	rec, err := r.decode(id, b)
	if err != nil {
		return rec, false
	}
	log := r.s.Log.WithField("record", id)
	log.WithError(why).Errorf("a record of %s was lost, it is taken from its copy", r.kind)
	if err := r.restore(ctx, rec); err != nil {
		log.WithError(err).Error("the record cannot be put back into the database")
	}
	return rec, true
}
