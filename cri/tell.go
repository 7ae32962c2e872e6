package cri

import (
	"context"
	"errors"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/cri/model"
	"github.com/cri-pouch/cri-pouch/internal/journal"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

// What happens to a container is told to the readers of events, to the journal and to the metrics, each step once and in
// the order created, started, ended, removed. A container that no client was told of is told to nobody.

func (s *Service) tellCreated(c *container) {
	s.publish(runtime.ContainerEventType_CONTAINER_CREATED_EVENT, c.id, c.sandboxID)
	s.note(c, journal.Entry{Kind: journal.Created})
}

// tellStarted makes the container running, unless it has ended, and tells it once: both the start's answer and the end
// come here, whichever is first.
func (s *Service) tellStarted(c *container, at time.Time) {
	c.telling.Lock()
	defer c.telling.Unlock()
	c.mu.Lock()
	if c.status == task.Created {
		c.status, c.startedAt = task.Running, at
	}
	lineage := c.rec.Lineage
	c.mu.Unlock()
	if c.startTold {
		return
	}
	c.startTold = true
	s.tellHooks(c, prestartOnly(s.hookResults(c.view().rec)))
	defer s.followers.follow(c, richTold{})
	s.publish(runtime.ContainerEventType_CONTAINER_STARTED_EVENT, c.id, c.sandboxID)
	s.note(c, journal.Entry{Kind: journal.Started, Time: at})
	gap := s.outageOf(c, at)
	e := journal.Entry{Kind: journal.Restarted, Time: at, Predecessor: lineage.Predecessor, Outage: gap}
	switch lineage.Cause {
	case model.CauseUpgrade:
		e.Kind = journal.Upgraded
		s.upgrades.upgraded(gap)
	case model.CauseRestart:
	default:
		return
	}
	s.note(c, e)
}

func (s *Service) tellEnded(c *container, end model.End) {
	c.telling.Lock()
	defer c.telling.Unlock()
	s.tellHooks(c, end.Hooks)
	s.publish(runtime.ContainerEventType_CONTAINER_STOPPED_EVENT, c.id, c.sandboxID)
	e := journal.Entry{Kind: journal.Ended, ExitCode: &end.ExitCode, Reason: end.Reason, Message: end.Message, Time: end.FinishedAt}
	switch end.Reason {
	case reasonLost:
		e.Kind = journal.Lost
	case reasonStartError:
		e.Kind = journal.StartFailed
	}
	s.note(c, e)
	lineage := c.view().rec.Lineage
	if e.Kind == journal.StartFailed && lineage.Cause == model.CauseUpgrade {
		s.upgrades.upgradeFailed()
		s.note(c, journal.Entry{Kind: journal.UpgradeFailed, Predecessor: lineage.Predecessor, Message: end.Message, Time: end.FinishedAt})
	}
}

func (s *Service) tellRemoved(c *container) {
	if !c.listed.Load() {
		return
	}
	s.publish(runtime.ContainerEventType_CONTAINER_DELETED_EVENT, c.id, c.sandboxID)
	s.note(c, journal.Entry{Kind: journal.Removed})
}

// outageOf gives for how long nothing ran before the container, in ms; nil where that is not known.
func (s *Service) outageOf(c *container, startedAt time.Time) *int64 {
	sb, err := s.index.sandbox(c.sandboxID)
	if err != nil {
		return nil
	}
	g := generationOf(c.view())
	g.StartedAt = startedAt
	return s.outageBefore(sb, g)
}

// note writes an entry about a container into the journal.
func (s *Service) note(c *container, e journal.Entry) {
	if s.Journal == nil {
		return
	}
	rec := c.view().rec
	e.ContainerID, e.SandboxID, e.Name, e.Attempt = c.id, c.sandboxID, rec.Config.Name, rec.Config.Attempt
	e.Image, e.ImageRef = rec.Config.UserImage, rec.ImageRef
	if sb, err := s.index.sandbox(c.sandboxID); err == nil {
		cfg := sb.record().Config
		e.Pod, e.Namespace, e.UID = cfg.Name, cfg.Namespace, cfg.UID
	}
	s.write(e)
}

// notePull notes a pull that failed; pod may be nil. One that its client gave up is none.
func (s *Service) notePull(ref string, pod *runtime.PodSandboxMetadata, err error) {
	if s.Journal == nil || errors.Is(err, context.Canceled) {
		return
	}
	s.write(journal.Entry{
		Kind: journal.PullFailed, Image: ref, Message: err.Error(), Pod: pod.GetName(), Namespace: pod.GetNamespace(), UID: pod.GetUid(),
	})
}

func (s *Service) write(e journal.Entry) {
	if err := s.Journal.Add(e); err != nil {
		s.Log.WithError(err).Warn("an event is not kept")
	}
}
