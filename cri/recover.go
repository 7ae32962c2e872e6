package cri

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cri-pouch/cri-pouch/cri/model"
	"github.com/cri-pouch/cri-pouch/internal/crash"
	"github.com/cri-pouch/cri-pouch/internal/exhaustion"
	"github.com/cri-pouch/cri-pouch/internal/failpoint"
	"github.com/cri-pouch/cri-pouch/internal/journal"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

// Recover rebuilds the indexes from the records and what the shim knows, undoes what was cut off, and starts to follow
// the shim. It must be called once, before the service serves.
func (s *Service) Recover(ctx context.Context) error {
	for _, dir := range []string{"containers", "exec"} {
		if err := os.MkdirAll(filepath.Join(s.StateDir, dir), 0o711); err != nil {
			return fmt.Errorf("make state folder: %w", err)
		}
	}
	if err := s.makeCopyDirs(); err != nil {
		return err
	}
	infos, err := s.Runtime.List(ctx)
	if err != nil {
		return fmt.Errorf("ask the shim for its containers: %w", err)
	}
	failpoint.Hit("containers.listed")
	held := make(map[string]task.Info, len(infos))
	for _, i := range infos {
		held[i.ID] = i
	}
	containers, err := s.containerRecords(ctx)
	if err != nil {
		return err
	}
	cut, err := s.recoverSandboxes(ctx, busySandboxes(held, containers))
	if err != nil {
		return err
	}
	s.recoverContainers(ctx, held, containers)
	s.findUnknown(held)
	for _, dir := range s.DamagedStores {
		s.findings.add(finding{kind: damagedStore, id: dir, why: "a store whose databases were damaged; the log of the start that set it aside says which"})
	}
	for _, sb := range cut {
		s.chores.run("undo sandbox "+sb.id+", whose creation was cut off", 0, func(ctx context.Context) error { return s.wipeSandbox(ctx, sb) })
	}
	s.sweepState(held)
	s.sweepVolumes(!s.findings.anySandbox())
	s.tellFindings()
	s.chores.wg.Go(crash.Keep(s.chores.ctx, s.Log, "follow the shim's events", func() { s.watch(s.chores.ctx) }))
	return nil
}

// busySandboxes gives the IDs of sandboxes of which the shim holds something, the holder among them.
func busySandboxes(held map[string]task.Info, containers map[string]model.Container) map[string]bool {
	busy := map[string]bool{}
	for id := range held {
		busy[id] = true
		busy[containers[id].SandboxID] = true
	}
	return busy
}

// recoverSandboxes reads the sandbox records; it gives those whose creation was cut off.
func (s *Service) recoverSandboxes(ctx context.Context, busy map[string]bool) (cut []*sandbox, err error) {
	records, err := s.sandboxRecords(ctx)
	if err != nil {
		return nil, err
	}
	for id, rec := range records {
		if rec.State == model.SandboxCreating && busy[id] {
			s.findings.add(finding{kind: sandboxRecord, id: id, why: "its record says that it is being made, and the shim holds containers of it"})
			continue
		}
		sb := newSandbox(rec)
		s.index.addSandbox(sb)
		s.clock.seen(rec.CreatedAt)
		if rec.State == model.SandboxCreating {
			sb.stopping.Store(true)
			cut = append(cut, sb)
			continue
		}
		sb.listed.Store(true)
		s.sandboxNames.adopt(sandboxName(rec.Config), rec.RequestDigest, id)
		survives, err := s.survives(sb)
		if err != nil {
			return nil, err
		}
		if rec.State == model.SandboxReady && !survives {
			if err := s.updateSandbox(ctx, sb, func(rec *model.Sandbox) { rec.State = model.SandboxNotReady }); err != nil {
				return nil, err
			}
		}
	}
	return cut, nil
}

// survives reports whether the sandbox's namespaces are still there: after a reboot they are not. An error says that the
// machine lacks something to tell.
func (s *Service) survives(sb *sandbox) (bool, error) {
	if sb.record().BootID != s.bootID {
		return false, nil
	}
	ns := s.Network.Namespaces(sb.pod())
	for _, path := range []string{ns.Net, ns.IPC, ns.UTS, ns.User} {
		if path == "" {
			continue
		}
		var st syscall.Statfs_t
		err := syscall.Statfs(path, &st)
		if exhaustion.Is(err) {
			return false, fmt.Errorf("look at the namespaces of sandbox %s: %w", sb.id, err)
		}
		if err != nil || st.Type != nsfsMagic {
			return false, nil
		}
	}
	return true, nil
}

// nsfsMagic is the type of a file that pins a namespace (linux/magic.h).
const nsfsMagic = 0x6e736673

func (s *Service) recoverContainers(ctx context.Context, held map[string]task.Info, records map[string]model.Container) {
	var all []model.Container
	for id, rec := range records {
		sb, err := s.index.sandbox(rec.SandboxID)
		switch {
		case err != nil:
			s.findings.add(finding{kind: lostSandbox, id: id, sandbox: rec.SandboxID, why: fmt.Sprintf("container %q belongs to sandbox %s, which has no record that can be read", rec.Config.Name, rec.SandboxID)})
		case sb.record().State == model.SandboxCreating:
			s.removeOrphan(id, held) // nobody was told of the sandbox
		default:
			s.clock.seen(rec.CreatedAt)
			all = append(all, rec)
		}
	}
	// Predecessors come before those who follow them.
	slices.SortFunc(all, func(a, b model.Container) int { return a.CreatedAt.Compare(b.CreatedAt) })
	told := s.readJournal()
	for _, rec := range all {
		s.recoverContainer(ctx, rec, held, told)
	}
	s.tellGone(told, records)
}

// recoverContainer puts one container back as the shim, the bundle and the record tell.
func (s *Service) recoverContainer(ctx context.Context, rec model.Container, held map[string]task.Info, told told) {
	sp, specErr := s.appSpec(rec.ID)
	info, inShim := held[rec.ID]
	if specErr != nil && rec.End == nil && !inShim && s.sameBoot(rec.SandboxID) {
		s.removeOrphan(rec.ID, held) // its creation was cut off, nobody was told of it
		return
	}
	if sp != nil && sp.Process != nil {
		rec.User, rec.Argv = userOf(sp), sp.Process.Args
	}
	if rec.StopSignal == "" {
		rec.StopSignal = appSignal(rec.Rich, s.stopSignal(ctx, rec))
	}
	c := newContainer(rec)
	c.listed.Store(true)
	s.index.addContainer(c)
	s.containerNames.adopt(containerName(rec.SandboxID, rec.Config), rec.RequestDigest, rec.ID)
	s.catchUp(c, told, info)
	switch {
	case rec.End != nil:
		s.chores.run("clean up after container "+c.id, 0, func(ctx context.Context) error { return s.letGo(ctx, c) })
	case inShim && info.Status == task.Created:
		s.takeBack(ctx, c)
	case inShim:
		c.status, c.startedAt, c.pid = info.Status, info.StartedAt, info.Pid
		s.followers.follow(c, told.inside(c.id, info.StartedAt))
		if info.Status == task.Stopped {
			c.status = task.Running
			s.exited(ctx, c, *info.Exit)
		}
	case !s.sameBoot(rec.SandboxID):
		s.lost(ctx, c, "the node was restarted", told.has(c.id, rec.CreatedAt, journal.Started))
	default:
		s.recoverUnheld(ctx, c, told)
	}
}

// recoverUnheld puts back a container that the shim does not list, and which has not ended as far as is known.
func (s *Service) recoverUnheld(ctx context.Context, c *container, told told) {
	// The shim goes on with a creation that the former daemon has asked for, and lists the container when it is done.
	_, err := s.Runtime.State(ctx, c.id)
	for errdefs.IsUnavailable(err) && ctx.Err() == nil { // the connection has broken, which says nothing of the container
		pause(ctx, 100*time.Millisecond)
		_, err = s.Runtime.State(ctx, c.id)
	}
	if err == nil || errdefs.IsFailedPrecondition(err) {
		s.takeBack(ctx, c)
		return
	}
	if _, err := os.Stat(filepath.Join(s.bundleDir(c.id), task.CreatedMark)); err == nil {
		s.lost(ctx, c, lostMessage, told.has(c.id, c.created, journal.Started))
		return
	}
	s.noteNodeHooks(c) // of a start that failed while no daemon ran
}

func (s *Service) sameBoot(sandboxID string) bool {
	sb, err := s.index.sandbox(sandboxID)
	return err == nil && sb.record().BootID == s.bootID
}

// stopSignal is resolved again for a record that was written before it was known.
func (s *Service) stopSignal(ctx context.Context, rec model.Container) string {
	if rec.Config.StopSignal != "" {
		return rec.Config.StopSignal
	}
	if img, err := s.Images.Get(ctx, rec.ImageID); err == nil && img.Config.Config.StopSignal != "" {
		return img.Config.Config.StopSignal
	}
	return "SIGTERM"
}

// removeOrphan removes a container that nobody can know.
func (s *Service) removeOrphan(id string, held map[string]task.Info) {
	_, inShim := held[id]
	delete(held, id)
	s.chores.run("remove the half-made container "+id, 0, func(ctx context.Context) error {
		if inShim {
			if err := s.endTask(ctx, id); err != nil {
				return err
			}
		}
		return s.removeTraces(ctx, id)
	})
}

// removeTraces removes what there is of a container that is in no index. It can be repeated.
func (s *Service) removeTraces(ctx context.Context, id string) error {
	if err := s.dropCopy(containerRecords, id); err != nil {
		return err
	}
	if err := s.Rootfs.Remove(ctx, id); err != nil {
		return err
	}
	return s.removeBundle(id)
}

// endTask kills and deletes what the shim holds under id.
func (s *Service) endTask(ctx context.Context, id string) error {
	if err := s.Runtime.Kill(ctx, id, uint32(syscall.SIGKILL), true); err == nil {
		wait, cancel := context.WithTimeout(ctx, killLimit)
		defer cancel()
		if _, err := s.Runtime.Wait(wait, id, ""); err != nil && !gone(err) {
			return err
		}
	} else if !gone(err) {
		return err
	}
	if _, err := s.Runtime.Delete(ctx, id); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}

// findUnknown notes what the shim holds without a record here: neither a container nor the holder of a sandbox. What runs
// and is not understood is left alone.
func (s *Service) findUnknown(held map[string]task.Info) {
	for id, info := range held {
		if _, err := s.index.container(id); err == nil {
			continue
		}
		if sb, err := s.index.sandbox(id); err == nil {
			if sb.record().State != model.SandboxReady { // the sandbox was stopped, its holder with it
				s.chores.run("end the holder of sandbox "+id, 0, func(ctx context.Context) error { return s.endTask(ctx, id) })
			}
			continue
		}
		if s.findings.setRunning(id) {
			continue
		}
		s.findings.add(finding{kind: unknownTask, id: id, running: true, why: fmt.Sprintf("the shim holds a container (%s, pid %d) that has no record", info.Status, info.Pid)})
	}
}

// tellFindings logs what was left alone.
func (s *Service) tellFindings() {
	for _, f := range s.findings.all() {
		s.Log.WithField("finding", f.id).Errorf("left alone: %s; cri-pouch repair tells what can be done", f)
	}
}

// sweepState removes bundles and exec folders that belong to nothing any more.
func (s *Service) sweepState(held map[string]task.Info) {
	removers := map[string]func(name string) error{
		"containers": s.removeBundle,
		"exec":       func(name string) error { return os.RemoveAll(filepath.Join(s.StateDir, "exec", name)) },
	}
	for dir, remove := range removers {
		entries, err := os.ReadDir(filepath.Join(s.StateDir, dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.Log.WithError(err).Warn("cannot sweep the state folder")
		}
		for _, e := range entries {
			_, cErr := s.index.container(e.Name())
			_, sErr := s.index.sandbox(e.Name())
			_, found := s.findings.get(e.Name())
			_, inShim := held[e.Name()]
			if cErr == nil || sErr == nil || found || inShim {
				continue
			}
			if err := remove(e.Name()); err != nil {
				s.Log.WithError(err).Warn("cannot sweep the state folder")
			}
		}
	}
}
