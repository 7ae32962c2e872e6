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

// stopSandbox first ends what runs, then waits for what has to end by itself. It waits for no CreateContainer: one under way finds
// at its end that the sandbox is being stopped, and takes back what it has made.
func (s *Service) stopSandbox(ctx context.Context, sb *sandbox) error {
	sb.stopping.Store(true)
	sb.endLife(errStopped)
	return sb.stop.Do(ctx, sandboxLimit, func(ctx context.Context) error {
		restore, err := s.endContainers(ctx, sb)
		defer restore()
		if err != nil {
			return err
		}
		if err := s.cancelHolder(ctx, sb); err != nil {
			return err
		}
		if err := sb.use.Acquire(ctx, usersMax); err != nil {
			return fmt.Errorf("wait for the starts in sandbox %s: %w", sb.id, err)
		}
		defer sb.use.Release(usersMax)
		if rec := sb.record(); rec.State == model.SandboxNotReady && rec.NetworkDown {
			return nil
		}
		started, err := s.endContainers(ctx, sb) // what a start has made meanwhile
		defer started()
		if err := errors.Join(err, s.endHolder(ctx, sb)); err != nil {
			return err
		}
		return s.disconnect(ctx, sb)
	})
}

// endContainers ends the starts in the sandbox and kills its containers, side by side, and waits for their ends. No start begins
// until restore is called, which must be done after an error too.
func (s *Service) endContainers(ctx context.Context, sb *sandbox) (restore func(), err error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	var restores []func()
	var errs []error
	for _, c := range s.index.containersOf(sb.id) {
		what := "end container " + c.id
		wg.Go(crash.Guard(s.Log, what, func() {
			again := func() {}
			err := crash.Try(s.Log, what, func() (err error) {
				if again, err = s.dismiss(ctx, c); err != nil {
					again = func() {}
					return err
				}
				return s.killContainer(ctx, c)
			})
			mu.Lock()
			defer mu.Unlock()
			restores, errs = append(restores, again), append(errs, err)
		}))
	}
	wg.Wait()
	return func() {
		for _, again := range restores {
			again()
		}
	}, errors.Join(errs...)
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
	err := s.updateSandbox(ctx, sb, func(rec *model.Sandbox) { rec.State, rec.NetworkDown = model.SandboxNotReady, true })
	s.publishSandbox(runtime.ContainerEventType_CONTAINER_STOPPED_EVENT, sb)
	return err
}
