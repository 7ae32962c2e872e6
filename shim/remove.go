package shim

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"
)

// remove takes an ended container away. It can be repeated.
func (c *container) remove(ctx context.Context) error {
	if c.removed {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, killLimit)
	defer cancel()
	if err := c.tree.Kill(ctx); err != nil {
		return fmt.Errorf("delete container %s: %w", c.id, err)
	}
	for _, e := range c.allExecs() { // no zombie may be left in the cgroup
		if p := e.started(); p != nil {
			if _, err := p.await(ctx); err != nil {
				return fmt.Errorf("delete container %s: %w", c.id, err)
			}
		}
	}
	if err := c.tree.Prune(ctx); err != nil { // which libcontainer cannot, where the paths are too long
		return fmt.Errorf("delete container %s: %w", c.id, err)
	}
	lc, err := c.object()
	if err == nil {
		err = lc.Destroy()
	}
	if err != nil {
		return fmt.Errorf("delete container %s: %w", c.id, err)
	}
	if err := c.outer.remove(); err != nil {
		return fmt.Errorf("delete container %s: %w", c.id, err)
	}
	if err := c.s.clear(c); err != nil {
		return err
	}
	c.removed = true
	return nil
}

// destroyByForce ends and removes the container whatever its state, with hooks that run; others are not run any more.
func (c *container) destroyByForce(ctx context.Context) error {
	c.mu.Lock()
	c.silent = true
	c.mu.Unlock()
	c.doom()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*killLimit)
	defer cancel()
	c.bereft(errDestroyed) // what is launched into it right now ends, whatever holds it up
	c.noteKill()
	_ = c.init.fd.Signal(unix.SIGKILL)
	c.tree.Thaw()
	release, err := c.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	if c.removed {
		return nil
	}
	c.tree.Thaw()
	if err := c.tree.Kill(ctx); err != nil {
		return err
	}
	if err := c.init.kill(ctx); err != nil {
		return err
	}
	if err := c.awaitStart(ctx); err != nil {
		return err
	}
	return c.remove(ctx)
}

// awaitStart waits until a start under way has given up.
func (c *container) awaitStart(ctx context.Context) error {
	c.mu.Lock()
	begun := c.begun
	c.mu.Unlock()
	if begun == nil {
		return nil
	}
	select {
	case <-begun:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the start of container %s does not end: %w", c.id, ctx.Err())
	}
}
