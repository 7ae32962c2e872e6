package cri

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-pouch/cri-pouch/cri/model"
	"github.com/cri-pouch/cri-pouch/cri/spec"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

// A pod whose containers share a pid namespace needs a pid 1 that outlives each of them: the holder. It is an ordinary
// container of the shim, named like its sandbox, started with the first container that needs it. It is in no list.

// pidNamespaceLater stands in a specification for a path that is known only at the start.
const pidNamespaceLater = "/proc/later/ns/pid"

// pidNamespaceAtStart says what a specification gets at creation for the pid namespace that it will join.
func pidNamespaceAtStart(c model.ContainerConfig) string {
	switch c.Security.Namespaces.PID {
	case model.ModePod, model.ModeTarget:
		return pidNamespaceLater
	}
	return ""
}

// joinPIDNamespace fills in the pid namespace that the container joins, starting the pod's holder where there is none.
func (s *Service) joinPIDNamespace(ctx context.Context, sb *sandbox, rec model.Container, sp *specs.Spec) (changed bool, err error) {
	var pid int
	switch ns := rec.Config.Security.Namespaces; ns.PID {
	case model.ModePod:
		pid, err = s.holder(ctx, sb)
	case model.ModeTarget:
		pid, err = s.targetPID(ctx, sb, ns.TargetID)
	default:
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for i := range sp.Linux.Namespaces {
		if sp.Linux.Namespaces[i].Type == specs.PIDNamespace {
			sp.Linux.Namespaces[i].Path = fmt.Sprintf("/proc/%d/ns/pid", pid)
			return true, nil
		}
	}
	return false, fmt.Errorf("specification of container %s has no pid namespace", rec.ID)
}

func (s *Service) targetPID(ctx context.Context, sb *sandbox, target string) (int, error) {
	c, err := s.index.container(target)
	if err != nil {
		return 0, fmt.Errorf("target of the pid namespace: %w", err)
	}
	if c.sandboxID != sb.id {
		return 0, fmt.Errorf("target container %s of the pid namespace is not in sandbox %s: %w", c.id, sb.id, errdefs.ErrInvalidArgument)
	}
	info, err := s.Runtime.State(ctx, c.id)
	if err != nil {
		return 0, fmt.Errorf("target container %s of the pid namespace: %w", c.id, err)
	}
	if info.Status != task.Running && info.Status != task.Paused {
		return 0, fmt.Errorf("target container %s of the pid namespace is not running: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	return info.Pid, nil
}

// holder gives the pid of the sandbox's holder, started if need be.
func (s *Service) holder(ctx context.Context, sb *sandbox) (int, error) {
	sb.holding.Lock()
	defer sb.holding.Unlock()
	if sb.stopping.Load() {
		return 0, fmt.Errorf("holder of sandbox %s: %w", sb.id, errStopped)
	}
	info, err := s.Runtime.State(ctx, sb.id)
	if err == nil && info.Status == task.Running {
		return info.Pid, nil
	}
	if err == nil { // it died: its namespace and all in it are gone, a new one takes its place
		_, err = s.Runtime.Delete(ctx, sb.id)
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return 0, fmt.Errorf("holder of sandbox %s: %w", sb.id, err)
	}
	return s.startHolder(ctx, sb)
}

func (s *Service) startHolder(ctx context.Context, sb *sandbox) (int, error) {
	// Who shares the pid namespace gets at the holder's root filesystem by /proc/1/root. It is
	// sealed, and a filesystem of its own: the state folder's could be made read-only for the
	// whole node.
	if err := os.MkdirAll(s.bundleDir(sb.id), 0o711); err != nil {
		return 0, fmt.Errorf("make bundle of the holder of sandbox %s: %w", sb.id, err)
	}
	program, err := s.PouchInit.Seal(s.bundleDir(sb.id))
	if err != nil {
		return 0, fmt.Errorf("root of the holder of sandbox %s: %w", sb.id, err)
	}
	rec := sb.record()
	sp, err := s.Spec.Holder(spec.HolderInput{
		SandboxID: sb.id, Sandbox: rec.Config, Rootfs: filepath.Dir(program), Namespaces: s.Network.Namespaces(sb.pod()),
	})
	if err != nil {
		return 0, err
	}
	if err := s.writeSpec(sb.id, sp); err != nil {
		return 0, err
	}
	pid, err := s.Runtime.Create(ctx, task.CreateRequest{ID: sb.id, Bundle: s.bundleDir(sb.id), SystemdCgroup: s.SystemdCgroup})
	if err != nil {
		return 0, fmt.Errorf("create holder of the pid namespace of sandbox %s: %w", sb.id, err)
	}
	if _, err := s.Runtime.Start(ctx, sb.id); err != nil {
		_, _ = s.Runtime.Delete(context.WithoutCancel(ctx), sb.id)
		return 0, fmt.Errorf("start holder of the pid namespace of sandbox %s: %w", sb.id, err)
	}
	return pid, nil
}

// cancelHolder ends the creation of the holder, where one is under way in a sandbox that is being stopped; none begins after it.
func (s *Service) cancelHolder(ctx context.Context, sb *sandbox) error {
	for !sb.holding.TryLock() {
		if _, err := s.Runtime.Delete(ctx, sb.id); err != nil && !gone(err) {
			return fmt.Errorf("end the creation of the holder of sandbox %s: %w", sb.id, err)
		}
		if pause(ctx, cancelInterval); ctx.Err() != nil {
			return fmt.Errorf("end the creation of the holder of sandbox %s: %w", sb.id, ctx.Err())
		}
	}
	sb.holding.Unlock()
	return nil
}

// endHolder ends the holder, if there is one.
func (s *Service) endHolder(ctx context.Context, sb *sandbox) error {
	sb.holding.Lock()
	defer sb.holding.Unlock()
	err := s.Runtime.Kill(ctx, sb.id, uint32(syscall.SIGKILL), true)
	if err == nil {
		wait, cancel := context.WithTimeout(ctx, killLimit)
		defer cancel()
		_, err = s.Runtime.Wait(wait, sb.id, "")
	}
	if err == nil || errdefs.IsFailedPrecondition(err) {
		_, err = s.Runtime.Delete(ctx, sb.id)
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("end holder of the pid namespace of sandbox %s: %w", sb.id, err)
	}
	return s.removeBundle(sb.id)
}
