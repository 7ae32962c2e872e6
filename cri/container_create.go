package cri

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/cri/model"
	"github.com/cri-pouch/cri-pouch/cri/spec"
	"github.com/cri-pouch/cri-pouch/internal/atomicfile"
	"github.com/cri-pouch/cri-pouch/internal/crash"
	"github.com/cri-pouch/cri-pouch/internal/failpoint"
	"github.com/cri-pouch/cri-pouch/internal/undo"
	"github.com/cri-pouch/cri-pouch/richcontainer"
	"github.com/cri-pouch/cri-pouch/shim/task"
	"github.com/cri-pouch/cri-pouch/snapshot"
)

// CreateContainer prepares a container in a ready sandbox: root filesystem, specification, record. The same request again
// gets the same container until that is started.
func (s *Service) CreateContainer(ctx context.Context, r *runtime.CreateContainerRequest) (*runtime.CreateContainerResponse, error) {
	sb, err := s.index.sandbox(r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	cfg, err := containerConfig(r.GetConfig())
	if err != nil {
		return nil, err
	}
	annotations := podAnnotations(r, sb.record())
	if err := volumeWishes(annotations, &cfg); err != nil {
		return nil, err
	}
	if cfg.RichAnnotations, err = richcontainer.Applying(annotations, cfg.Name); err != nil {
		return nil, err
	}
	if err := s.hookWishes(annotations, &cfg); err != nil {
		return nil, err
	}
	digest := containerDigest(sb.id, cfg)
	id, err := s.containerNames.create(ctx, containerName(sb.id, cfg), digest, s.containerMaker(sb, cfg, annotations, digest))
	if err != nil {
		return nil, err
	}
	return &runtime.CreateContainerResponse{ContainerId: id}, nil
}

func (s *Service) containerMaker(sb *sandbox, cfg model.ContainerConfig, pod map[string]string, digest string) maker {
	return maker{
		what: "container", limit: containerLimit,
		make: func(ctx context.Context) (string, error) { return s.makeContainer(ctx, sb, cfg, pod, digest) },
		destroy: func(ctx context.Context, id string) error {
			c, err := s.index.container(id)
			if err != nil {
				return nil
			}
			return s.removeContainer(ctx, c)
		},
		reusable: func(id string) bool {
			c, err := s.index.container(id)
			return err == nil && c.view().status == task.Created && sb.ready()
		},
		tell: func(id string) {
			if c, err := s.index.container(id); err == nil {
				if !c.listed.Swap(true) {
					s.tellCreated(c)
				}
			}
		},
	}
}

// demandReady returns an error unless containers can be made in the sandbox.
func (sb *sandbox) demandReady() error {
	if sb.ready() {
		return nil
	}
	return fmt.Errorf("sandbox %s is stopped, run a new one: %w", sb.id, errdefs.ErrFailedPrecondition)
}

// enter takes part in the sandbox's use: until leave is called nobody takes the sandbox down.
func (s *Service) enter(ctx context.Context, sb *sandbox) (leave func(), err error) {
	if err := sb.use.Acquire(ctx, 1); err != nil {
		return nil, fmt.Errorf("sandbox %s is being stopped: %w", sb.id, err)
	}
	if err := sb.demandReady(); err != nil {
		sb.use.Release(1)
		return nil, err
	}
	return func() { sb.use.Release(1) }, nil
}

// makeContainer does the work of CreateContainer: everything, or nothing and an error. pod are the pod's annotations.
func (s *Service) makeContainer(ctx context.Context, sb *sandbox, cfg model.ContainerConfig, pod map[string]string, digest string) (_ string, err error) {
	if err := sb.demandReady(); err != nil {
		return "", err
	}
	if ns := cfg.Security.Namespaces; ns.PID == model.ModeTarget {
		if _, err := s.targetPID(ctx, sb, ns.TargetID); err != nil {
			return "", err
		}
	}
	img, err := s.Images.Get(ctx, cfg.ImageSpec)
	if err != nil {
		return "", fmt.Errorf("image %q of container %q is not here, pull it first: %w", cfg.ImageSpec, cfg.Name, err)
	}
	cfg.UserImage = tagged(img, cfg.UserImage)
	sbRec := sb.record()
	choice, err := s.chooseRich(sbRec, cfg, img)
	if err != nil {
		return "", err
	}
	rec := model.Container{
		ID: newID(), SandboxID: sb.id, CreatedAt: s.clock.now(), Config: cfg, RequestDigest: digest,
		ImageID: img.ID, ImageRef: imageRef(img, cfg.UserImage), LogPath: logPath(sbRec.Config, cfg), Rich: richRecord(choice),
	}
	rec.Lineage = s.lineage(sb, rec)
	var steps undo.Stack
	defer func() {
		if err != nil {
			s.undoContainer(ctx, sb, rec.ID, &steps)
		}
	}()
	defer crash.Catch(s.Log.WithField("pod", sb.id).WithField("container", rec.ID), "make container "+rec.ID, &err)
	if err := s.newRootfs(ctx, sbRec, rec, img, &steps); err != nil {
		return "", err
	}
	out, err := s.prepare(ctx, sb, rec, img, choice, &steps)
	if err != nil {
		return "", err
	}
	rec.User, rec.Argv, rec.StopSignal = out.User, out.Argv, out.StopSignal
	if err := s.addNodeHooks(rec, pod, out); err != nil {
		return "", err
	}
	failpoint.Hit("container.prepared")
	if !s.index.addContainerOf(sb, newContainer(rec)) {
		return "", sb.demandReady() // it was stopped meanwhile
	}
	steps.Keep()
	return rec.ID, nil
}

// newRootfs makes snapshot and record in one commit.
func (s *Service) newRootfs(ctx context.Context, sb model.Sandbox, rec model.Container, img snapshot.Image, steps *undo.Stack) error {
	b, err := model.EncodeContainer(rec)
	if err != nil {
		return err
	}
	req := snapshot.NewRootfs{ID: rec.ID, ImageID: img.ID, Manifest: img.Manifest, ChainID: img.ChainID, Record: b}
	req.UIDs, req.GIDs = rootfsMappings(sb.Config)
	steps.Add("remove root filesystem", func(ctx context.Context) error { return s.Rootfs.Remove(ctx, rec.ID) })
	if err := s.Rootfs.Create(ctx, req); err != nil {
		return err
	}
	steps.Add("remove the copy of the record", func(context.Context) error { return s.dropCopy(containerRecords, rec.ID) })
	s.keepCopy(containerRecords, rec.ID, b)
	failpoint.Hit("container.recorded")
	return nil
}

// prepare mounts the root filesystem and writes the bundle.
func (s *Service) prepare(ctx context.Context, sb *sandbox, rec model.Container, img snapshot.Image, choice richcontainer.Choice, steps *undo.Stack) (spec.Output, error) {
	root, err := s.Rootfs.Mount(ctx, rec.ID)
	if err != nil {
		return spec.Output{}, err
	}
	failpoint.Hit("container.mounted")
	sbRec, pod := sb.record(), sb.pod()
	steps.Add("take back new volumes", func(ctx context.Context) error { return s.Volumes.Withdraw(ctx, sbRec.Config.UID, rec.ID) })
	volumes, err := s.volumes(ctx, sbRec, rec, img, root)
	if err != nil {
		return spec.Output{}, err
	}
	in := spec.Input{
		ID: rec.ID, Sandbox: sbRec.Config, SandboxID: sb.id, Config: rec.Config, Image: img.Config, Rootfs: root,
		Namespaces: s.Network.Namespaces(pod), Files: s.Network.Files(sb.id), Shm: s.Network.Shm(pod),
		PIDNamespace: pidNamespaceAtStart(rec.Config), Volumes: volumes,
	}
	out, err := s.Spec.Build(ctx, in)
	if err != nil {
		return out, err
	}
	if rec.LogPath != "" {
		if err := os.MkdirAll(filepath.Dir(rec.LogPath), 0o755); err != nil {
			return out, fmt.Errorf("make log directory of container %s: %w", rec.ID, err)
		}
	}
	steps.Add("remove bundle", func(context.Context) error { return s.removeBundle(rec.ID) })
	plain, err := plainSpec(rec, out.Spec)
	if err != nil {
		return out, err
	}
	if err := s.enrich(sbRec, rec, root, choice, &out); err != nil {
		return out, err
	}
	if err := s.planHooks(sb, rec, in, plain, out.Spec); err != nil {
		return out, err
	}
	return out, s.writeSpec(rec.ID, out.Spec)
}

// undoContainer takes back a container that failed half way; what cannot be taken back now is tried again.
func (s *Service) undoContainer(ctx context.Context, sb *sandbox, id string, steps *undo.Stack) {
	err := steps.Run(ctx, undoLimit)
	if _, gone := s.index.sandbox(sb.id); err == nil && gone != nil {
		err = s.dropVolumes(context.WithoutCancel(ctx), sb) // of a sandbox that was removed meanwhile
	}
	if err != nil {
		s.Log.WithField("container", id).WithError(err).Warn("cannot undo a failed CreateContainer completely yet")
		s.chores.run("undo the failed container "+id, 0, func(ctx context.Context) error { return s.removeTraces(ctx, id) })
	}
}

// writeSpec writes a container's config.json, on tmpfs: it cannot outlive a boot.
func (s *Service) writeSpec(id string, sp *specs.Spec) error {
	b, err := json.Marshal(sp)
	if err != nil {
		return fmt.Errorf("encode specification of container %s: %w", id, err)
	}
	dir := s.bundleDir(id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make bundle of container %s: %w", id, err)
	}
	if err := atomicfile.Write(filepath.Join(dir, "config.json"), b); err != nil {
		return fmt.Errorf("write specification of container %s: %w", id, err)
	}
	return nil
}

// readSpec reads it back.
func (s *Service) readSpec(id string) (*specs.Spec, error) {
	b, err := os.ReadFile(filepath.Join(s.bundleDir(id), "config.json"))
	if err != nil {
		return nil, fmt.Errorf("read specification of container %s: %w", id, err)
	}
	sp := &specs.Spec{}
	if err := json.Unmarshal(b, sp); err != nil {
		return nil, fmt.Errorf("decode specification of container %s: %w", id, err)
	}
	return sp, nil
}

// logPath is the absolute path of the container's log; empty where the client asked for none.
func logPath(sb model.SandboxConfig, c model.ContainerConfig) string {
	if sb.LogDirectory == "" || c.LogPath == "" {
		return ""
	}
	return filepath.Join(sb.LogDirectory, c.LogPath)
}

// tagged is the image as the status shows it: what the client asked for, with ":latest" where that has neither tag nor
// digest and is no ID.
func tagged(img snapshot.Image, asked string) string {
	if strings.HasPrefix(img.ID, asked) || strings.HasPrefix(img.ID, "sha256:"+asked) {
		return asked
	}
	if named, err := reference.ParseNormalizedNamed(asked); err == nil && reference.IsNameOnly(named) {
		return asked + ":latest"
	}
	return asked
}

// imageRef is the image's digest in the repository that the client named, which the kubelet publishes as imageID; else
// in another repository, else the image's ID.
func imageRef(img snapshot.Image, asked string) string {
	if named, err := reference.ParseDockerRef(asked); err == nil {
		for _, d := range img.RepoDigests {
			if strings.HasPrefix(d, named.Name()+"@") {
				return d
			}
		}
	}
	if len(img.RepoDigests) > 0 {
		return img.RepoDigests[0]
	}
	return img.ID
}
