package cri

import (
	"context"
	"time"

	"github.com/cri-pouch/cri-pouch/internal/journal"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

// watch follows the shim's events until the service is closed. Each time the connection breaks it subscribes anew and
// compares what the shim holds with what is known here: subscribing before listing misses nothing.
func (s *Service) watch(ctx context.Context) {
	for ctx.Err() == nil {
		if err := s.followShim(ctx); err != nil {
			s.Log.WithError(err).Warn("cannot follow the shim's events, will try again")
			pause(ctx, time.Second)
			continue
		}
		pause(ctx, 10*time.Millisecond)
	}
}

// followShim handles events until the connection breaks.
func (s *Service) followShim(ctx context.Context) error {
	subscription, cancel := context.WithCancel(ctx)
	defer cancel()
	events, err := s.Runtime.Events(subscription)
	if err == nil {
		err = s.reconcile(ctx)
	}
	if err != nil {
		return err
	}
	for e := range events {
		s.handle(ctx, e)
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// handle notes what happened to a container; each in a routine of its own, because it writes to disk.
func (s *Service) handle(ctx context.Context, e task.Event) {
	c, err := s.index.container(e.ID)
	if err != nil {
		return // a holder, or one that is removed
	}
	switch e.Type {
	case task.EventExit:
		s.recordEnd(c, func() { s.exited(context.WithoutCancel(ctx), c, *e.Exit) })
	case task.EventLost:
		ran := c.view().status != task.Created
		s.recordEnd(c, func() { s.lost(context.WithoutCancel(ctx), c, lostMessage, ran) })
	case task.EventOOM:
		s.Log.WithField("pod", c.sandboxID).WithField("container", c.id).Warn("the kernel's OOM killer ended a process of the container")
		s.note(c, journal.Entry{Kind: journal.OOM})
	}
}

// recordEnd records the end of a container in the background. A panic on the way must not leave it running for ever over
// dead processes: it is tried again.
func (s *Service) recordEnd(c *container, record func()) {
	s.chores.run("record the end of container "+c.id, 0, func(context.Context) error { record(); return nil })
}

const lostMessage = "the shim died and took the container with it"

// reconcile notes the ends of containers that happened while nobody listened.
func (s *Service) reconcile(ctx context.Context) error {
	infos, err := s.Runtime.List(ctx)
	if err != nil {
		return err
	}
	held := make(map[string]task.Info, len(infos))
	for _, i := range infos {
		held[i.ID] = i
	}
	s.index.mu.RLock()
	var all []*container
	for _, c := range s.index.containers {
		all = append(all, c)
	}
	s.index.mu.RUnlock()
	for _, c := range all {
		if v := c.view(); v.status != task.Running && v.status != task.Paused {
			continue
		}
		switch info, ok := held[c.id]; {
		case !ok:
			s.handle(ctx, task.Event{Type: task.EventLost, ID: c.id})
		case info.Status == task.Stopped && info.Exit != nil:
			s.handle(ctx, task.Event{Type: task.EventExit, ID: c.id, Exit: info.Exit})
		}
	}
	return nil
}
