package shim

import (
	"context"
	"fmt"

	"github.com/cri-pouch/cri-pouch/shim/task"
)

// pause freezes all processes of the container.
func (c *container) pause(ctx context.Context) error {
	release, err := c.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := c.demand("pause", task.Running); err != nil {
		return err
	}
	if err := c.demandNoHooks("pause"); err != nil {
		return err
	}
	lc, err := c.object()
	if err == nil {
		err = c.blame(lc.Pause())
	}
	if err != nil {
		return fmt.Errorf("pause container %s: %w", c.id, err)
	}
	c.change(task.Running, task.Paused)
	return nil
}

// resume thaws them.
func (c *container) resume(ctx context.Context) error {
	release, err := c.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := c.demand("resume", task.Paused); err != nil {
		return err
	}
	lc, err := c.object()
	if err == nil {
		err = c.blame(lc.Resume())
	}
	if err != nil {
		return fmt.Errorf("resume container %s: %w", c.id, err)
	}
	c.change(task.Paused, task.Running)
	return nil
}

// change sets the state, unless the container has ended meanwhile.
func (c *container) change(from, to task.Status) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.status == from {
		c.status = to
	}
}
