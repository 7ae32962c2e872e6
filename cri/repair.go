package cri

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/cri-pouch/cri-pouch/network"
)

// repair does what remedies says about one finding, and forgets it. It can be repeated, and goes on when its caller gives up.
func (s *Service) repair(ctx context.Context, f finding) error {
	s.repairing.Lock()
	defer s.repairing.Unlock()
	if _, ok := s.findings.get(f.id); !ok {
		return nil // it was repaired meanwhile
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), containerLimit)
	defer cancel()
	s.Log.WithField("finding", f.id).Warnf("repairing: %s", f)
	var err error
	switch f.kind {
	case sandboxRecord:
		err = s.repairSandbox(ctx, f)
	case damagedStore:
		err = s.removeStore(ctx, f.id)
	default:
		err = s.repairContainer(ctx, f)
	}
	if err != nil {
		return fmt.Errorf("repair %s %s: %w", f.kind, f.id, err)
	}
	s.findings.remove(f.id)
	if f.kind == lostSandbox && len(s.findings.ofSandbox(f.sandbox)) == 0 {
		return s.releaseSandbox(ctx, f.sandbox)
	}
	return nil
}

func (s *Service) repairContainer(ctx context.Context, f finding) error {
	if err := s.endTask(ctx, f.id); err != nil {
		return err
	}
	return errors.Join(s.removeTraces(ctx, f.id), os.RemoveAll(filepath.Join(s.StateDir, "exec", f.id)))
}

func (s *Service) repairSandbox(ctx context.Context, f finding) error {
	for _, c := range s.findings.ofSandbox(f.id) {
		if err := s.repairContainer(ctx, c); err != nil {
			return err
		}
		s.findings.remove(c.id)
	}
	if err := s.endTask(ctx, f.id); err != nil { // the holder of its pid namespace
		return err
	}
	if err := errors.Join(s.removeBundle(f.id), s.releaseSandbox(ctx, f.id)); err != nil {
		return err
	}
	if err := s.deleteSandbox(ctx, f.id); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}

// removeStore removes a store that was set aside. What is mounted from it has the names that its folders had before, which
// another store may have by now: so it stays as long as there is any container whose snapshot is not in the store.
func (s *Service) removeStore(ctx context.Context, dir string) error {
	stranded, err := s.Rootfs.Stranded(ctx)
	if err != nil {
		return err
	}
	if len(stranded) > 0 {
		return fmt.Errorf("containers %s may run from it, remove them first: %w", strings.Join(stranded, ", "), errdefs.ErrFailedPrecondition)
	}
	return os.RemoveAll(dir)
}

// releaseSandbox frees what a sandbox without a record that can be read has of the node: its address by CNI GC, which knows
// attachments by their sandbox's ID.
func (s *Service) releaseSandbox(ctx context.Context, id string) error {
	keep := slices.DeleteFunc(s.attachedPods(), func(pod network.Pod) bool { return pod.ID == id })
	return errors.Join(s.Network.GC(ctx, keep), s.Network.Unpin(ctx, id), s.Network.RemoveFiles(ctx, id))
}

// stopFound ends the processes of what recovery has left alone under this ID, as a client's word: nothing is removed.
func (s *Service) stopFound(ctx context.Context, id string) error {
	var errs []error
	for _, f := range s.foundUnder(id) {
		if err := s.endTask(ctx, f.id); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// removeFound removes what recovery has left alone under this ID, as a client's word.
func (s *Service) removeFound(ctx context.Context, id string) error {
	for _, f := range s.foundUnder(id) {
		if err := s.repair(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

// foundUnder gives the finding with this ID and those of containers in the sandbox of this ID, the containers first.
func (s *Service) foundUnder(id string) []finding {
	all := s.findings.ofSandbox(id)
	if f, ok := s.findings.get(id); ok {
		all = append(all, f)
	}
	return all
}
