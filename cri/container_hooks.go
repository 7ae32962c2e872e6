package cri

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-pouch/cri-pouch/cri/model"
	"github.com/cri-pouch/cri-pouch/cri/spec"
	"github.com/cri-pouch/cri-pouch/hooks"
	"github.com/cri-pouch/cri-pouch/internal/failpoint"
	"github.com/cri-pouch/cri-pouch/internal/hookrun"
	"github.com/cri-pouch/cri-pouch/internal/richrun"
	"github.com/cri-pouch/cri-pouch/snapshot"
)

// What hooks are told beside the container's environment. The shim adds how the container ended.
const (
	attemptVariable  = "POUCH_ATTEMPT"
	upgradeVariable  = "POUCH_UPGRADE"
	oldImageVariable = "POUCH_OLD_IMAGE"
	newImageVariable = "POUCH_NEW_IMAGE"
)

// hookWishes reads from the pod's annotations which hooks the container has. They are part of the request; the errors are
// InvalidArgument.
func (s *Service) hookWishes(annotations map[string]string, c *model.ContainerConfig) (err error) {
	if c.HookAnnotations, err = hooks.Applying(annotations, c.Name); err != nil {
		return err
	}
	_, err = s.Hooks.Read(c.HookAnnotations, c.Name)
	return err
}

// hooked says whether a container may have hooks.
func hooked(rec model.Container) bool { return len(rec.Config.HookAnnotations) > 0 }

// plainSpec gives a copy of a container's specification before a rich mode's edits; nil for a container without hooks.
func plainSpec(rec model.Container, sp *specs.Spec) (*specs.Spec, error) {
	if !hooked(rec) {
		return nil, nil
	}
	b, err := json.Marshal(sp)
	if err != nil {
		return nil, fmt.Errorf("copy specification of container %s: %w", rec.ID, err)
	}
	out := &specs.Spec{}
	if err := json.Unmarshal(b, out); err != nil {
		return nil, fmt.Errorf("copy specification of container %s: %w", rec.ID, err)
	}
	return out, nil
}

// planHooks writes for the shim which hooks to run, and mounts what runs them. plain is the container's specification without
// an init: its process is the application's. sp is what the container is created from.
func (s *Service) planHooks(sb *sandbox, rec model.Container, in spec.Input, plain, sp *specs.Spec) error {
	if plain == nil {
		return nil
	}
	declared, err := s.Hooks.Read(rec.Config.HookAnnotations, rec.Config.Name)
	if err != nil || declared.None() {
		return err
	}
	c := hooks.Container{
		Name: rec.Config.Name, Namespace: in.Sandbox.Namespace, Process: plain.Process,
		User: func(user string) (specs.User, error) { return s.Spec.HookUser(in, user) },
	}
	var plan hookrun.Plan
	if plan.Prestart, err = s.planStage(declared.Prestart, c, s.startVariables(sb, rec)); err != nil {
		return err
	}
	if plan.Poststop, err = s.planStage(declared.Poststop, c, []string{attempt(rec)}); err != nil {
		return err
	}
	if rec.Rich != nil {
		if err := s.placeHooks(in.Rootfs, sp, plan.Prestart); err != nil {
			return err
		}
	}
	launcher, err := s.launcherMount(rec.ID)
	if err == nil {
		err = s.mountLauncher(rec, in.Rootfs, launcher, sp)
	}
	if err != nil {
		return err
	}
	if len(plan.Poststop) > 0 {
		plain.Mounts = append(plain.Mounts, launcher)
		plain.Linux.CgroupsPath = spec.PoststopCgroup(plain.Linux.CgroupsPath)
		ownPIDs(rec, plain)
		plan.PoststopSpec = plain
	}
	if err := plan.Write(s.bundleDir(rec.ID)); err != nil {
		return err
	}
	failpoint.Hit("container.hooks-planned")
	return nil
}

// planStage makes the processes of one stage.
func (s *Service) planStage(list hooks.List, c hooks.Container, env []string) ([]hookrun.Hook, error) {
	var out []hookrun.Hook
	for _, h := range list.Hooks {
		p, err := s.Hooks.Process(h, list.By, c, env)
		if err != nil {
			return nil, fmt.Errorf("container %q: %w", c.Name, err)
		}
		out = append(out, hookrun.Hook{Name: h.Name, Process: p, Timeout: h.Timeout, Ignore: h.Ignore, Log: h.Log})
	}
	return out, nil
}

func attempt(rec model.Container) string {
	return attemptVariable + "=" + strconv.FormatUint(uint64(rec.Config.Attempt), 10)
}

// startVariables are what prestart hooks are told. That a container is an upgrade is known before its start only.
func (s *Service) startVariables(sb *sandbox, rec model.Container) []string {
	env := []string{attempt(rec)}
	if rec.Lineage.Cause != model.CauseUpgrade {
		return env
	}
	for g := range s.known(sb) {
		if g.ID == rec.Lineage.Predecessor {
			return append(env, upgradeVariable+"=1", oldImageVariable+"="+g.Image, newImageVariable+"="+rec.Config.UserImage)
		}
	}
	return env
}

// placeHooks runs hooks in "/" where the working directory is not there: it is made for the first process of a container, and
// that of a rich one is its init.
func (s *Service) placeHooks(rootfs string, sp *specs.Spec, list []hookrun.Hook) error {
	if len(list) == 0 {
		return nil
	}
	dir := list[0].Process.Cwd
	if sp.Process.Cwd == dir || slices.ContainsFunc(sp.Mounts, func(m specs.Mount) bool { return covers(path.Clean(m.Destination), dir) }) {
		return nil
	}
	place, err := s.Volumes.Resolve(rootfs, dir)
	if err != nil {
		return fmt.Errorf("working directory of hooks: %w", err)
	}
	if place.Kind != snapshot.PlaceFolder {
		for i := range list {
			list[i].Process.Cwd = "/"
		}
	}
	return nil
}

// mountLauncher shows pouch-init in the container as what runs its hooks.
func (s *Service) mountLauncher(rec model.Container, rootfs string, launcher specs.Mount, sp *specs.Spec) error {
	for _, p := range []string{path.Dir(path.Dir(hookrun.Launcher)), path.Dir(hookrun.Launcher)} {
		place, err := s.Volumes.Resolve(rootfs, p)
		if err == nil && place.Kind == snapshot.PlaceOther {
			err = fmt.Errorf("%s of the image is no folder: %w", p, errdefs.ErrInvalidArgument)
		}
		if err != nil {
			return fmt.Errorf("container %q: hooks are run by what is mounted at %s: %w", rec.Config.Name, hookrun.Launcher, err)
		}
	}
	for _, m := range rec.Config.Mounts {
		if m.Readonly && covers(m.ContainerPath, path.Dir(hookrun.Launcher)) {
			return fmt.Errorf("container %q: hooks are run by what is mounted at %s, but the pod's mount at %s is read-only: mount it further below: %w",
				rec.Config.Name, hookrun.Launcher, m.ContainerPath, errdefs.ErrInvalidArgument)
		}
	}
	// A real init has a folder of ours there, read-only: what is mounted at has to be in it.
	dir := filepath.Join(s.bundleDir(rec.ID), richrun.Dir)
	if _, err := os.Stat(dir); err == nil && richrun.Folder == path.Dir(hookrun.Launcher) {
		if err := os.WriteFile(filepath.Join(dir, path.Base(hookrun.Launcher)), nil, 0o555); err != nil {
			return fmt.Errorf("make the place of what runs hooks: %w", err)
		}
	}
	sp.Mounts = append(sp.Mounts, launcher)
	return nil
}

// launcherMount seals pouch-init for a container and gives its mount.
func (s *Service) launcherMount(id string) (specs.Mount, error) {
	source, err := s.PouchInit.Seal(s.bundleDir(id))
	if err != nil {
		return specs.Mount{}, fmt.Errorf("what runs the hooks of container %s: %w", id, err)
	}
	return specs.Mount{Destination: hookrun.Launcher, Type: "bind", Source: source, Options: []string{"bind", "rprivate", "ro", "nosuid", "nodev"}}, nil
}

// ownPIDs takes poststop hooks out of the pid namespace of another container, which may have ended before theirs.
func ownPIDs(rec model.Container, sp *specs.Spec) {
	if rec.Config.Security.Namespaces.PID != model.ModeTarget {
		return
	}
	for i := range sp.Linux.Namespaces {
		if sp.Linux.Namespaces[i].Type == specs.PIDNamespace {
			sp.Linux.Namespaces[i].Path = ""
		}
	}
}

// editPlan changes the specification that a container's poststop hooks will run in; nothing where there are none.
func (s *Service) editPlan(rec model.Container, edit func(sp *specs.Spec)) error {
	if !hooked(rec) {
		return nil
	}
	plan, err := hookrun.ReadPlan(s.bundleDir(rec.ID))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("hooks of container %s: %w", rec.ID, err)
	}
	if plan.PoststopSpec == nil {
		return nil
	}
	edit(plan.PoststopSpec)
	return plan.Write(s.bundleDir(rec.ID))
}

// followPIDNamespace lets poststop hooks join the pid namespace that the container has got at its start.
func (s *Service) followPIDNamespace(rec model.Container, sp *specs.Spec) error {
	at := slices.IndexFunc(sp.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.PIDNamespace })
	return s.editPlan(rec, func(poststop *specs.Spec) {
		for i := range poststop.Linux.Namespaces {
			if ns := &poststop.Linux.Namespaces[i]; ns.Type == specs.PIDNamespace && ns.Path != "" {
				ns.Path = sp.Linux.Namespaces[at].Path
			}
		}
	})
}
