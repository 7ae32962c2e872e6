package cri

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/cri/model"
	"github.com/cri-pouch/cri-pouch/internal/failpoint"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

// Bounds of a pod's history. It stands in the sandbox's record, and what it says comes from the pod's author.
const (
	maxGenerations    = 20  // of one container name
	maxAllGenerations = 400 // of all names in a pod
	maxImage          = 512 // bytes of an image's name or digest
	maxMessage        = 256 // bytes of why it ended
)

// generation is one container of a pod's history, there or removed.
type generation struct {
	model.Generation
	// status is the container's; empty for one that is removed.
	status task.Status
}

// ran says whether the container's program ever ran, as far as anybody knows.
func (g generation) ran() bool {
	switch g.status {
	case task.Created:
		return false
	case task.Running, task.Paused:
		return true
	}
	return g.Reason != reasonStartError
}

// generations gives all that is known of the pod's containers, over all its sandboxes, oldest first.
func (s *Service) generations(sb *sandbox) []generation {
	var all []generation
	seen := map[string]bool{}
	for g := range s.known(sb) {
		if !seen[g.ID] {
			seen[g.ID] = true
			all = append(all, g)
		}
	}
	slices.SortStableFunc(all, func(a, b generation) int { return a.CreatedAt.Compare(b.CreatedAt) })
	measure(all)
	return all
}

// known gives the pod's containers that are there, then what history keeps of removed ones. One that is being removed is
// for a moment both.
func (s *Service) known(sb *sandbox) iter.Seq[generation] {
	pod := s.index.sandboxesOf(sb.key)
	return func(yield func(generation) bool) {
		for _, sb := range pod {
			for _, c := range s.index.containersOf(sb.id) {
				if !c.listed.Load() {
					continue
				}
				if v := c.view(); !yield(generation{generationOf(v), v.status}) {
					return
				}
			}
		}
		for _, sb := range pod {
			for _, g := range sb.record().History {
				if !yield(generation{g, ""}) {
					return
				}
			}
		}
	}
}

// outageBefore gives for how long nothing ran before a generation, in ms; nil where that is not known.
func (s *Service) outageBefore(sb *sandbox, g model.Generation) *int64 {
	if g.Lineage.Predecessor == "" {
		return nil
	}
	for before := range s.known(sb) {
		if before.ID == g.Lineage.Predecessor {
			return outage(before.Generation, g)
		}
	}
	return nil
}

// measure fills in the outages that are not known yet.
func measure(all []generation) {
	byID := make(map[string]*generation, len(all))
	for i := range all {
		byID[all[i].ID] = &all[i]
	}
	for i := range all {
		g := &all[i]
		if before := byID[g.Lineage.Predecessor]; before != nil && g.Outage == nil {
			g.Outage = outage(before.Generation, g.Generation)
		}
	}
}

// outage is the time from one container's end to its successor's start, in ms; nil where one of them is not known. It is
// 0 where the successor did not wait for the end. When a lost one ended nobody knows: its record has the time at which that
// was found out.
func outage(before, g model.Generation) *int64 {
	if before.FinishedAt.IsZero() || before.Reason == reasonLost || g.StartedAt.IsZero() {
		return nil
	}
	ms := max(g.StartedAt.Sub(before.FinishedAt), 0).Milliseconds()
	return &ms
}

// generationOf is what history keeps of a container.
func generationOf(v view) model.Generation {
	g := model.Generation{
		ID: v.rec.ID, Name: v.rec.Config.Name, Attempt: v.rec.Config.Attempt, Lineage: v.rec.Lineage,
		Image: bounded(v.rec.Config.UserImage, maxImage), ImageID: v.rec.ImageID, ImageRef: bounded(v.rec.ImageRef, maxImage),
		CreatedAt: v.rec.CreatedAt, StartedAt: v.startedAt,
	}
	if end := v.rec.End; end != nil {
		g.FinishedAt, g.ExitCode, g.Reason, g.Message = end.FinishedAt, end.ExitCode, end.Reason, bounded(end.Message, maxMessage)
		if end.Reason == reasonStartError {
			g.StartedAt = time.Time{} // CRI wants a time there; nothing ran
		}
	}
	return g
}

// bounded cuts a text to so many bytes, between runes.
func bounded(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	const more = "…"
	cut := limit - len(more)
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return strings.ToValidUTF8(s[:cut], "\uFFFD") + more
}

// merged adds generations to a history: each container once, in the order of their creation, as many as the bounds allow.
func merged(history, more []model.Generation) []model.Generation {
	seen := map[string]bool{}
	var all []model.Generation
	for _, g := range append(slices.Clone(history), more...) {
		if !seen[g.ID] {
			seen[g.ID] = true
			all = append(all, g)
		}
	}
	slices.SortStableFunc(all, func(a, b model.Generation) int { return a.CreatedAt.Compare(b.CreatedAt) })
	return newest(all, func(g model.Generation) string { return g.Name })
}

// newest leaves the last generations of each name, and of these the last of all.
func newest[T any](all []T, name func(T) string) []T {
	count := map[string]int{}
	kept := make([]T, 0, len(all))
	for _, g := range slices.Backward(all) {
		if count[name(g)]++; count[name(g)] <= maxGenerations && len(kept) < maxAllGenerations {
			kept = append(kept, g)
		}
	}
	slices.Reverse(kept)
	return kept
}

// removeRecord removes a container's record and root filesystem. What is worth remembering of it enters the sandbox's
// history in the same commit, so that a daemon killed here neither loses nor doubles it.
func (s *Service) removeRecord(ctx context.Context, c *container) error {
	if err := s.dropCopy(containerRecords, c.id); err != nil {
		return err
	}
	v := c.view()
	sb, err := s.index.sandbox(c.sandboxID)
	if err != nil || v.status == task.Created || !c.listed.Load() {
		return s.Rootfs.Remove(ctx, c.id)
	}
	g := generationOf(v)
	g.Outage = s.outageBefore(sb, g)
	sb.writing.Lock()
	defer sb.writing.Unlock()
	rec := sb.record()
	rec.History = merged(rec.History, []model.Generation{g})
	b, err := model.EncodeSandbox(rec)
	if err != nil {
		return err
	}
	if err := s.Rootfs.RemoveInto(ctx, c.id, sb.id, b); diskFull(err) {
		s.Log.WithField("pod", sb.id).WithField("container", c.id).WithError(err).Warn("no space for the container's history, it is removed without")
		return s.Rootfs.Remove(ctx, c.id)
	} else if err != nil {
		return err
	}
	if !sb.leaving {
		s.keepCopy(sandboxRecords, sb.id, b)
	}
	sb.mu.Lock()
	sb.rec.History = rec.History
	sb.mu.Unlock()
	return nil
}

// bequeath hands the history of a sandbox that is about to go to another one of the same pod, if there is one. From then
// on nobody bequeaths anything to this one.
func (s *Service) bequeath(ctx context.Context, sb *sandbox) error {
	sb.writing.Lock()
	sb.leaving = true
	rec := sb.record()
	sb.writing.Unlock()
	if len(rec.History) == 0 {
		return nil
	}
	for _, heir := range slices.Backward(s.index.sandboxesOf(sb.key)) {
		if heir.id == sb.id {
			continue
		}
		taken, err := s.inherit(ctx, heir, rec.History)
		if diskFull(err) {
			s.Log.WithField("pod", sb.id).WithError(err).Warn("no space for the sandbox's history, it is removed without")
			return nil
		}
		if err != nil {
			return fmt.Errorf("hand the history of sandbox %s on to sandbox %s of the same pod: %w", sb.id, heir.id, err)
		}
		if taken {
			failpoint.Hit("sandbox.bequeathed")
			return nil
		}
	}
	return nil
}

func (s *Service) inherit(ctx context.Context, heir *sandbox, history []model.Generation) (bool, error) {
	heir.writing.Lock()
	defer heir.writing.Unlock()
	if heir.leaving {
		return false, nil
	}
	rec := heir.record()
	rec.History = merged(rec.History, history)
	if err := s.putSandbox(ctx, rec); err != nil {
		return false, err
	}
	heir.mu.Lock()
	heir.rec.History = rec.History
	heir.mu.Unlock()
	return true, nil
}

// diskFull says that err is for want of space. Removing things is what helps then: no history may be in the way of it.
func diskFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }
