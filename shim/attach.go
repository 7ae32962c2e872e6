package shim

import (
	"context"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/crash"
	"github.com/cri-pouch/cri-pouch/internal/pollfile"
	shimapi "github.com/cri-pouch/cri-pouch/shim/api/v1"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

// Attach serves one attached client.
func (t shimService) Attach(ctx context.Context, r *shimapi.AttachRequest, to shimapi.Shim_AttachServer) (err error) {
	defer func() { err = toCode(err) }() // the edge of calls is not asked for streams
	defer crash.Catch(t.s.log, "Attach", &err)
	c, err := t.s.get(r.Id)
	if err != nil {
		return err
	}
	if err := c.attach(ctx, r, func() error { return to.Send(&shimapi.AttachResponse{}) }); err != nil {
		return fmt.Errorf("attach to container %s: %w", r.Id, err)
	}
	return nil
}

// attach connects the FIFOs, calls ready, and returns when the attachment has ended.
func (c *container) attach(ctx context.Context, r *shimapi.AttachRequest, ready func() error) error {
	if err := c.demand("attach to", task.Running, task.Paused); err != nil {
		return err
	}
	switch {
	case r.Stdout == "":
		return fmt.Errorf("the request has no stdout: %w", errdefs.ErrInvalidArgument)
	case r.Stderr != "" && c.terminal:
		return fmt.Errorf("a terminal has no stderr of its own: %w", errdefs.ErrInvalidArgument)
	case r.Stdin != "" && !c.options.GetStdin():
		return fmt.Errorf("it was created without stdin: %w", errdefs.ErrFailedPrecondition)
	}
	m, in, err := openAttachment(r)
	if err != nil {
		return err
	}
	defer m.detach(nil)
	if in != nil {
		defer in.Close()
	}
	if err := c.audience.add(m); err != nil {
		return err
	}
	defer c.audience.drop(m)
	m.start()
	crash.Go(c.log, "watch an attached client", func() {
		defer m.detach(errDetached)
		hungUp(m.outlets["stdout"].file)
	})
	if in != nil {
		defer c.typeFrom(in)()
	}
	if err := ready(); err != nil {
		m.detach(errDetached)
	}
	select {
	case <-m.gone:
	case <-ctx.Done(): // the caller's connection broke
		m.detach(errDetached)
	}
	m.running.Wait()
	return m.err
}

// openAttachment opens the client's FIFOs, of which the client has its ends open.
func openAttachment(r *shimapi.AttachRequest) (_ *attachment, in *pollfile.File, err error) {
	m := newAttachment()
	defer func() {
		if err != nil {
			m.detach(err)
		}
	}()
	for name, path := range map[string]string{"stdout": r.Stdout, "stderr": r.Stderr} {
		if path == "" {
			continue
		}
		f, err := openFIFO(path, unix.O_WRONLY)
		if err != nil {
			return nil, nil, err
		}
		m.lead(name, f)
	}
	if r.Stdin != "" {
		if in, err = openFIFO(r.Stdin, unix.O_RDONLY); err != nil {
			return nil, nil, err
		}
	}
	return m, in, nil
}

// typeFrom leads a client's input into the container until stop is called. With stdinOnce the end of the first client's
// input is the end of the container's.
func (c *container) typeFrom(in *pollfile.File) (stop func()) {
	stdin := c.init.io.input()
	to, err := stdin.open()
	if err != nil { // it was closed: what comes is dropped
		crash.Go(c.log, "drop a client's input", func() { take(in, nil) })
		return func() {}
	}
	stop = sync.OnceFunc(func() {
		stdin.release(to)
		if !c.options.GetStdinOnce() {
			return
		}
		if err := stdin.close(); err != nil {
			c.log.WithError(err).Warn("close stdin")
		}
	})
	crash.Go(c.log, "copy a client's input", func() {
		defer stop()
		take(in, to)
	})
	return stop
}
