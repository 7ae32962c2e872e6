package cri

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/cri/model"
	"github.com/cri-pouch/cri-pouch/internal/crash"
	"github.com/cri-pouch/cri-pouch/internal/failpoint"
	"github.com/cri-pouch/cri-pouch/internal/undo"
	"github.com/cri-pouch/cri-pouch/network"
)

// RunPodSandbox makes a pod's namespaces and connects it to the network. The same request again gets the same sandbox.
func (s *Service) RunPodSandbox(ctx context.Context, r *runtime.RunPodSandboxRequest) (*runtime.RunPodSandboxResponse, error) {
	cfg, err := sandboxConfig(r.GetConfig(), r.GetRuntimeHandler())
	if err != nil {
		return nil, err
	}
	if !s.knownHandler(cfg.RuntimeHandler) {
		return nil, fmt.Errorf("runtime handler %q is not configured on this node, known are %q: %w", cfg.RuntimeHandler, s.Handlers, errdefs.ErrInvalidArgument)
	}
	if cfg.Namespaces.User != nil && s.NoUserNamespaces != nil {
		return nil, fmt.Errorf("pod %s/%s asks for a user namespace, which this node cannot give (its status says so): %w: %w", cfg.Namespace, cfg.Name, s.NoUserNamespaces, errdefs.ErrFailedPrecondition)
	}
	name, digest := sandboxName(cfg), requestDigest(cfg)
	id, err := s.sandboxNames.create(ctx, name, digest, s.sandboxMaker(cfg, digest))
	if err != nil {
		return nil, err
	}
	return &runtime.RunPodSandboxResponse{PodSandboxId: id}, nil
}

func (s *Service) sandboxMaker(cfg model.SandboxConfig, digest string) maker {
	return maker{
		what: "sandbox", limit: sandboxLimit,
		make:    func(ctx context.Context) (string, error) { return s.makeSandbox(ctx, cfg, digest) },
		destroy: s.removeSandboxByID,
		reusable: func(id string) bool {
			sb, err := s.index.sandbox(id)
			return err == nil && sb.ready()
		},
		tell: func(id string) {
			if sb, err := s.index.sandbox(id); err == nil && !sb.listed.Swap(true) {
				s.publishSandbox(runtime.ContainerEventType_CONTAINER_CREATED_EVENT, sb)
				s.publishSandbox(runtime.ContainerEventType_CONTAINER_STARTED_EVENT, sb)
			}
		},
	}
}

// makeSandbox does the work of RunPodSandbox: everything, or nothing and an error.
func (s *Service) makeSandbox(ctx context.Context, cfg model.SandboxConfig, digest string) (_ string, err error) {
	sb := newSandbox(model.Sandbox{
		ID: newID(), CreatedAt: s.clock.now(), State: model.SandboxCreating, Config: cfg, BootID: s.bootID, RequestDigest: digest,
	})
	var steps undo.Stack
	defer func() {
		if err != nil {
			s.undoSandbox(ctx, sb, &steps)
		}
	}()
	defer crash.Catch(s.Log.WithField("pod", sb.id), "make sandbox "+sb.id, &err)
	s.index.addSandbox(sb)
	steps.Add("forget sandbox", func(context.Context) error { s.index.dropSandbox(sb.id); return nil })
	steps.Add("delete sandbox record", func(ctx context.Context) error { sb.leave(); return s.deleteSandbox(ctx, sb.id) })
	if err := s.putSandbox(ctx, sb.record()); err != nil {
		return "", err
	}
	failpoint.Hit("sandbox.recorded")
	if cfg.LogDirectory != "" {
		if err := os.MkdirAll(cfg.LogDirectory, 0o755); err != nil {
			return "", fmt.Errorf("make log directory of sandbox %s: %w", sb.id, err)
		}
	}
	attachment, err := s.connect(ctx, sb.pod(), &steps)
	if err != nil {
		return "", err
	}
	err = s.updateSandbox(ctx, sb, func(rec *model.Sandbox) {
		for _, ip := range attachment.IPs {
			rec.IPs = append(rec.IPs, ip.String())
		}
		rec.CNIResult, rec.State = attachment.Result, model.SandboxReady
	})
	if err != nil {
		return "", err
	}
	failpoint.Hit("sandbox.ready")
	steps.Keep()
	return sb.id, nil
}

// connect gives the pod its namespaces, network and files.
func (s *Service) connect(ctx context.Context, pod network.Pod, steps *undo.Stack) (network.Attachment, error) {
	steps.Add("remove namespaces", func(ctx context.Context) error { return s.Network.Unpin(ctx, pod.ID) })
	if _, err := s.Network.Pin(ctx, pod); err != nil {
		return network.Attachment{}, err
	}
	var attachment network.Attachment
	var err error
	if !pod.HostNetwork {
		steps.Add("release network", func(ctx context.Context) error { return s.Network.Detach(ctx, pod) })
		if attachment, err = s.Network.Attach(ctx, pod); err != nil {
			return attachment, err
		}
	}
	steps.Add("remove files", func(ctx context.Context) error { return s.Network.RemoveFiles(ctx, pod.ID) })
	_, err = s.Network.WriteFiles(ctx, pod, attachment)
	return attachment, err
}

// undoSandbox takes back a sandbox that failed half way. What cannot be taken back now is tried again in the background;
// its record, still "creating", tells recovery of it.
func (s *Service) undoSandbox(ctx context.Context, sb *sandbox, steps *undo.Stack) {
	err := steps.Run(ctx, undoLimit)
	if err == nil {
		err = s.dropVolumes(ctx, sb) // of a former sandbox of the pod, removed meanwhile
	}
	if err == nil {
		return
	}
	s.Log.WithField("pod", sb.id).WithError(err).Warn("cannot undo a failed RunPodSandbox completely yet")
	s.chores.run("undo the failed sandbox "+sb.id, 0, func(ctx context.Context) error { return s.wipeSandbox(ctx, sb) })
}

// wipeSandbox removes every trace of a sandbox without containers; it can be repeated.
func (s *Service) wipeSandbox(ctx context.Context, sb *sandbox) error {
	sb.leave()
	pod := sb.pod()
	var errs []error
	if !pod.HostNetwork && !sb.record().NetworkDown {
		errs = append(errs, s.Network.Detach(ctx, pod))
	}
	errs = append(errs, s.Network.Unpin(ctx, sb.id), s.Network.RemoveFiles(ctx, sb.id))
	if err := errors.Join(errs...); err != nil {
		return err // the record stays: it is what the next try goes by
	}
	if err := s.dropVolumes(ctx, sb); err != nil {
		return err
	}
	if err := s.deleteSandbox(ctx, sb.id); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	s.index.dropSandbox(sb.id)
	return nil
}

// updateSandbox changes the record, first in memory, then durably.
func (s *Service) updateSandbox(ctx context.Context, sb *sandbox, edit func(*model.Sandbox)) error {
	sb.writing.Lock()
	defer sb.writing.Unlock()
	sb.mu.Lock()
	edit(&sb.rec)
	rec := sb.rec
	sb.mu.Unlock()
	return s.putSandbox(ctx, rec)
}

// putSandbox writes a record; sb.writing must be held once others can see the sandbox.
func (s *Service) putSandbox(ctx context.Context, rec model.Sandbox) error {
	b, err := model.EncodeSandbox(rec)
	if err != nil {
		return err
	}
	if err := s.Records.PutSandbox(ctx, rec.ID, b); err != nil {
		return fmt.Errorf("write record of sandbox %s: %w", rec.ID, err)
	}
	s.keepCopy(sandboxRecords, rec.ID, b)
	return nil
}

// deleteSandbox deletes a sandbox's record; errdefs.ErrNotFound.
func (s *Service) deleteSandbox(ctx context.Context, id string) error {
	if err := s.dropCopy(sandboxRecords, id); err != nil {
		return err
	}
	return s.Records.DeleteSandbox(ctx, id)
}
