package cri

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cri-pouch/cri-pouch/cri/model"
	"github.com/cri-pouch/cri-pouch/cri/spec"
	"github.com/cri-pouch/cri-pouch/richcontainer"
	"github.com/cri-pouch/cri-pouch/snapshot"
)

// wantedVolume is a path that may become a volume.
type wantedVolume struct {
	path string
	// by says who asks for it; empty: only a predecessor had it.
	by  string
	had bool   // a predecessor had it
	at  string // where it leads in the root filesystem
}

// imageVolumes gives the image's VOLUMEs, sorted. A relative one counts from the root.
func imageVolumes(img snapshot.Image) ([]wantedVolume, error) {
	if n := len(img.Config.Config.Volumes); n > maxVolumes {
		return nil, fmt.Errorf("image %s declares %d VOLUMEs, at most %d are allowed: use another image, or annotate the pod with %s: %s: %w",
			img.ID, n, maxVolumes, volumesAnnotation, volumesFresh, errdefs.ErrInvalidArgument)
	}
	var out []wantedVolume
	for v := range img.Config.Config.Volumes {
		bad := func(format string, args ...any) error {
			return fmt.Errorf("VOLUME %.200q of image %s %s: use another image, or annotate the pod with %s: %s: %w",
				v, img.ID, fmt.Sprintf(format, args...), volumesAnnotation, volumesFresh, errdefs.ErrInvalidArgument)
		}
		if err := checkText("VOLUME", v, maxVolumePath); err != nil {
			return nil, bad("is impossible (%v)", err)
		}
		p := path.Join("/", v)
		switch {
		case slices.Contains(strings.Split(v, "/"), ".."):
			return nil, bad("has a '..'")
		case p == "/", slices.Contains(kernelPaths, p):
			return nil, bad("cannot outlive a container")
		}
		out = append(out, wantedVolume{path: p, by: "VOLUME of image " + img.ID})
	}
	slices.SortFunc(out, func(a, b wantedVolume) int { return strings.Compare(a.path, b.path) })
	return out, nil
}

// volumes makes the container's volumes ready in its mounted root filesystem and says where each is to be mounted: what the
// image declares, what the pod's annotation lists, and what its predecessors had.
func (s *Service) volumes(ctx context.Context, sb model.Sandbox, rec model.Container, img snapshot.Image, rootfs string) ([]spec.Volume, error) {
	cfg := rec.Config
	if cfg.FreshVolumes {
		return nil, nil
	}
	wanted, err := s.wantedVolumes(ctx, sb, cfg, img)
	if err != nil || len(wanted) == 0 {
		return nil, err
	}
	if wanted, err = s.placeVolumes(rec, wanted, rootfs); err != nil || len(wanted) == 0 {
		return nil, err
	}
	req := snapshot.NewVolumes{Pod: sb.Config.UID, Container: cfg.Name, ID: rec.ID, ImageID: img.ID, Rootfs: rootfs}
	req.UIDs, req.GIDs = rootfsMappings(sb.Config)
	at := map[string]string{}
	for _, w := range wanted {
		req.Paths, at[w.path] = append(req.Paths, w.path), w.at
	}
	made, err := s.Volumes.Prepare(ctx, req)
	if errdefs.IsResourceExhausted(err) {
		return nil, fmt.Errorf("%w (the pod can do without by its annotation %s: %s)", err, volumesAnnotation, volumesFresh)
	}
	if err != nil {
		return nil, err
	}
	out := make([]spec.Volume, len(made))
	for i, v := range made {
		out[i] = spec.Volume{ContainerPath: at[v.Path], HostPath: v.Dir, UIDMappings: modelMappings(v.UIDs), GIDMappings: modelMappings(v.GIDs)}
	}
	return out, nil
}

// wantedVolumes puts together who asks for what, each path once.
func (s *Service) wantedVolumes(ctx context.Context, sb model.Sandbox, cfg model.ContainerConfig, img snapshot.Image) ([]wantedVolume, error) {
	all, err := imageVolumes(img)
	if err != nil {
		return nil, fmt.Errorf("container %q: %w", cfg.Name, err)
	}
	for _, p := range cfg.Persist {
		all = append(all, wantedVolume{path: p, by: "annotation " + persistAnnotation})
	}
	known, err := s.Volumes.Paths(ctx, sb.Config.UID, cfg.Name)
	if err != nil {
		return nil, err
	}
	for _, p := range known {
		all = append(all, wantedVolume{path: p})
	}
	var out []wantedVolume
	for _, w := range all {
		if !slices.ContainsFunc(out, func(o wantedVolume) bool { return o.path == w.path }) {
			w.had = slices.Contains(known, w.path)
			out = append(out, w)
		}
	}
	if len(out) > maxVolumes {
		return nil, fmt.Errorf("container %q would have %d volumes (of image %s, of annotation %s, and those of its predecessors), at most %d are allowed: list fewer, delete the pod, or annotate it with %s: %s: %w",
			cfg.Name, len(out), img.ID, persistAnnotation, maxVolumes, volumesAnnotation, volumesFresh, errdefs.ErrInvalidArgument)
	}
	slices.SortStableFunc(out, func(a, b wantedVolume) int { return strings.Count(a.path, "/") - strings.Count(b.path, "/") })
	return out, nil
}

// placeVolumes finds out where each path leads in the root filesystem, whose symlinks are the image's. It leaves out what a
// mount of the request covers, what the kernel's file systems cover, and a second path to the same place.
func (s *Service) placeVolumes(rec model.Container, wanted []wantedVolume, rootfs string) ([]wantedVolume, error) {
	covering, err := s.mountPlaces(rec.Config, rootfs)
	if err != nil {
		return nil, err
	}
	emptied, err := ofOneBoot(rec, rootfs)
	if err != nil {
		return nil, err
	}
	var out []wantedVolume
	for _, w := range wanted {
		log := s.Log.WithField("container", rec.ID).WithField("volume", w.path)
		if slices.ContainsFunc(covering, func(m string) bool { return covers(m, w.path) }) {
			log.Debug("no volume: a mount of the pod covers it")
			continue
		}
		if kernelPath(w.path) != "" {
			log.Debug("no volume: the kernel fills it")
			continue
		}
		place, err := s.Volumes.Resolve(rootfs, w.path)
		if err != nil && w.by == "" {
			log.WithError(err).Warn("a volume of the container's predecessors cannot be mounted; it is kept")
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("volume %s (%s) of container %q: %w", w.path, w.by, rec.Config.Name, err)
		}
		w.at = place.Path
		kernel := kernelPath(w.at)
		same := slices.IndexFunc(out, func(o wantedVolume) bool { return o.at == w.at })
		switch {
		case slices.ContainsFunc(covering, func(m string) bool { return covers(m, w.at) }):
			log.Debug("no volume: a mount of the pod covers the place that it leads to")
			continue
		case slices.Contains(emptied, w.at) && !slices.Contains(rec.Config.Persist, w.path):
			log.Debug("no volume: the init gets an empty folder there")
			continue
		case slices.Contains(emptied, w.at):
			return nil, fmt.Errorf("annotation %s of container %q: %s leads to %s, which the init of a rich container finds empty at each start, as a machine does: remove it, or name folders below it: %w",
				persistAnnotation, rec.Config.Name, w.path, w.at, errdefs.ErrInvalidArgument)
		case same >= 0 && w.had && !out[same].had:
			log.Debugf("no volume %s: it would hide this one, which a predecessor had", out[same].path)
			out[same] = w
			continue
		case same >= 0:
			log.Debugf("no volume: %s leads to the same place", out[same].path)
			continue
		case w.by == "" && (place.Kind == snapshot.PlaceOther || w.at == "/" || kernel != ""):
			log.Warn("a volume of the container's predecessors cannot be mounted, its image has something else there; it is kept")
			continue
		case place.Kind == snapshot.PlaceOther:
			return nil, fmt.Errorf("%s of container %q: %s is no folder in the image, name the folder that it lies in: %w", w.by, rec.Config.Name, w.path, errdefs.ErrInvalidArgument)
		case w.at == "/" || kernel != "":
			return nil, fmt.Errorf("%s of container %q: %s leads to %s in the image, which cannot outlive a container: remove it: %w", w.by, rec.Config.Name, w.path, w.at, errdefs.ErrInvalidArgument)
		}
		out = append(out, w)
	}
	return out, nil
}

// ofOneBoot gives the folders that an init is to find empty.
func ofOneBoot(rec model.Container, rootfs string) ([]string, error) {
	if rec.Rich == nil {
		return nil, nil
	}
	folders, err := richcontainer.Choice{Mode: richcontainer.Mode(rec.Rich.Mode), By: rec.Rich.By}.OfOneBoot(rootfs)
	if err != nil {
		return nil, fmt.Errorf("container %q: %w", rec.Config.Name, err)
	}
	return folders, nil
}

// podFiles are files that we mount.
var podFiles = []string{"/etc/hosts", "/etc/resolv.conf", "/etc/hostname"}

// mountPlaces gives the paths of the request's mounts and of ours, and the places that they lead to in the root filesystem.
func (s *Service) mountPlaces(cfg model.ContainerConfig, rootfs string) ([]string, error) {
	out := slices.Clone(podFiles)
	for _, m := range cfg.Mounts {
		out = append(out, m.ContainerPath)
		place, err := s.Volumes.Resolve(rootfs, m.ContainerPath)
		if err != nil {
			return nil, fmt.Errorf("mount at %s of container %q: %w", m.ContainerPath, cfg.Name, err)
		}
		if place.Path != m.ContainerPath {
			out = append(out, place.Path)
		}
	}
	return out, nil
}

func rootfsMappings(sb model.SandboxConfig) (uids, gids []snapshot.IDMapping) {
	if u := sb.Namespaces.User; u != nil {
		for _, m := range u.UIDs {
			uids = append(uids, snapshot.IDMapping(m))
		}
		for _, m := range u.GIDs {
			gids = append(gids, snapshot.IDMapping(m))
		}
	}
	return uids, gids
}

func modelMappings(in []snapshot.IDMapping) []model.IDMapping {
	var out []model.IDMapping
	for _, m := range in {
		out = append(out, model.IDMapping(m))
	}
	return out
}

// volumeUsage is what the container's volumes take: they are its writable data, and eviction has to see them.
func (s *Service) volumeUsage(ctx context.Context, rec model.Container) (snapshot.FSUsage, error) {
	sb, err := s.index.sandbox(rec.SandboxID)
	if err != nil {
		return snapshot.FSUsage{}, err
	}
	return s.Volumes.Usage(ctx, sb.record().Config.UID, rec.Config.Name)
}

// dropVolumes removes the pod's volumes with its last sandbox.
func (s *Service) dropVolumes(ctx context.Context, sb *sandbox) error {
	uid := sb.record().Config.UID
	err := s.Volumes.Remove(ctx, uid, func() bool { return !s.index.disown(sb, uid) || s.findings.anySandbox() })
	if errors.Is(err, snapshot.ErrLeftover) {
		s.Log.WithField("pod", sb.id).WithError(err).Warn("cannot remove all files of the pod's volumes yet, will try again")
		s.chores.run("remove the volumes of former pods", time.Second, s.Volumes.Purge)
		return nil
	}
	return err
}

// sweepVolumes removes what belongs to no pod any more; complete says that all records of sandboxes could be read.
func (s *Service) sweepVolumes(complete bool) {
	if complete {
		if err := s.Volumes.Sweep(s.index.hasPod); err != nil {
			s.Log.WithError(err).Warn("cannot sweep the volumes of former pods")
		}
	}
	s.chores.run("remove the volumes of former pods", 0, s.Volumes.Purge)
}
