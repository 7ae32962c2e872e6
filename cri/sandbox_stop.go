package cri

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/cri/model"
	"github.com/cri-pouch/cri-pouch/internal/crash"
	"github.com/cri-pouch/cri-pouch/internal/failpoint"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

// killLimit is how long processes may take to go after SIGKILL.
const killLimit = 30 * time.Second

// errStopped ends what was going on in a sandbox.
var errStopped = fmt.Errorf("the sandbox was stopped: %w", errdefs.ErrAborted)

// StopPodSandbox ends all containers of the pod and takes it off the network. It can be repeated; an unknown sandbox is
// stopped already.
func (s *Service) StopPodSandbox(ctx context.Context, r *runtime.StopPodSandboxRequest) (*runtime.StopPodSandboxResponse, error) {
	sb, err := s.index.sandbox(r.GetPodSandboxId())
	if errdefs.IsNotFound(err) {
		return &runtime.StopPodSandboxResponse{}, s.stopFound(ctx, r.GetPodSandboxId())
	}
	if err != nil {
		return nil, err
	}
	if err := s.stopSandbox(ctx, sb); err != nil {
		return nil, err
	}
	return &runtime.StopPodSandboxResponse{}, nil
}

func (s *Service) stopSandbox(ctx context.Context, sb *sandbox) error {
	sb.stopping.Store(true)
	sb.endLife(errStopped)
	return sb.stop.Do(ctx, sandboxLimit, func(ctx context.Context) error {
		for _, c := range s.index.containersOf(sb.id) {
			restore, err := s.dismiss(ctx, c)
			if err != nil {
				return err
			}
			defer restore()
		}
		if err := sb.use.Acquire(ctx, usersMax); err != nil {
			return fmt.Errorf("wait for the starts in sandbox %s: %w", sb.id, err)
		}
		defer sb.use.Release(usersMax)
		if rec := sb.record(); rec.State == model.SandboxNotReady && rec.NetworkDown {
			return nil
		}
		if err := s.endAll(ctx, sb); err != nil {
			return err
		}
		return s.disconnect(ctx, sb)
	})
}

// endAll kills the sandbox's containers and the holder of its pid namespace, and waits for their ends.
func (s *Service) endAll(ctx context.Context, sb *sandbox) error {
	var mu sync.Mutex
	var wg sync.WaitGroup
	var errs []error
	for _, c := range s.index.containersOf(sb.id) {
		wg.Go(crash.Guard(s.Log, "end container "+c.id, func() {
			if err := crash.Try(s.Log, "end container "+c.id, func() error { return s.killContainer(ctx, c) }); err != nil {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
		}))
	}
	wg.Wait()
	errs = append(errs, s.endHolder(ctx, sb))
	return errors.Join(errs...)
}

// killContainer ends a container at once and waits until shim and mount have let go of it.
func (s *Service) killContainer(ctx context.Context, c *container) error {
	if v := c.view(); v.status == task.Created && v.pid == 0 && v.startError == nil {
		return nil
	}
	if v := c.view(); v.status != task.Stopped {
		if err := s.Runtime.Kill(ctx, c.id, uint32(syscall.SIGKILL), true); err != nil && !gone(err) {
			return fmt.Errorf("kill container %s: %w", c.id, err)
		}
	}
	limit := endLimit(c.view().rec)
	ended, err := c.awaitEnd(ctx, limit)
	if err != nil {
		return fmt.Errorf("wait for the end of container %s: %w", c.id, err)
	}
	if !ended {
		return fmt.Errorf("container %s still has processes %s after SIGKILL, they may hang in the kernel: %w", c.id, limit, errdefs.ErrUnavailable)
	}
	select {
	case <-c.cleaned:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("clean up after container %s: %w", c.id, ctx.Err())
	}
}

// gone says that err means there is nothing left to signal.
func gone(err error) bool {
	return errdefs.IsNotFound(err) || errdefs.IsFailedPrecondition(err)
}

// disconnect takes the pod off the network, removes its namespaces, and notes that it is not ready.
func (s *Service) disconnect(ctx context.Context, sb *sandbox) error {
	pod := sb.pod()
	if !pod.HostNetwork && !sb.record().NetworkDown {
		if err := s.Network.Detach(ctx, pod); err != nil {
			return err
		}
	}
	failpoint.Hit("sandbox.detached")
	if err := s.Network.Unpin(ctx, sb.id); err != nil {
		return err
	}
	return s.updateSandbox(ctx, sb, func(rec *model.Sandbox) { rec.State, rec.NetworkDown = model.SandboxNotReady, true })
}
