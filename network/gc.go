package network

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/cri-pouch/cri-pouch/internal/crash"
)

// GC releases every attachment but those of keep and those made since the start: first what is noted here, by DEL with
// the configuration that each had; then, where the network's configuration is of CNI spec 1.1, the plugins are asked to
// drop what they hold for anything else (addresses whose notes were lost). It goes on after errors and gives them all. Pods can be
// connected and released meanwhile; ErrBusy says that the plugins could not be asked, for they were.
func (m *Manager) GC(ctx context.Context, keep []Pod) error {
	wanted := map[string]bool{}
	for _, pod := range keep {
		wanted[pod.ID] = true
	}
	err := m.releaseOthers(ctx, wanted)
	list, confErr := m.conf.current()
	if confErr != nil {
		return err // nothing to ask; Ready says why
	}
	return errors.Join(err, m.cni.collect(ctx, list, wanted))
}

func (m *Manager) releaseOthers(ctx context.Context, wanted map[string]bool) error {
	ids, err := m.cni.journal.ids()
	if err != nil {
		return fmt.Errorf("list attachments: %w", err)
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	var errs []error
	for _, id := range ids {
		if wanted[id] {
			continue
		}
		wg.Go(crash.Guard(m.o.Log, "release the address of sandbox "+id, func() {
			if err := m.releaseStale(ctx, id); err != nil {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
		}))
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (m *Manager) releaseStale(ctx context.Context, id string) error {
	unlock, err := m.locks.lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	if m.cni.isLive(id) {
		return nil
	}
	if err := m.cni.release(ctx, id, m.Namespaces(Pod{ID: id}).Net); err != nil {
		return fmt.Errorf("release the address of sandbox %s, which is no more: %w", id, err)
	}
	return nil
}

func (r *cniRunner) isLive(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.live[id]
}

// collect runs CNI GC. What is still noted is kept: it is live, or its DEL failed and is tried again.
func (r *cniRunner) collect(ctx context.Context, list *libcni.NetworkConfigList, wanted map[string]bool) error {
	ctx, end, err := r.turns.collect(ctx)
	if err != nil {
		return err
	}
	defer end()
	noted, err := r.journal.ids()
	if err != nil {
		return fmt.Errorf("list attachments: %w", err)
	}
	valid := map[string]bool{}
	for _, id := range noted {
		valid[id] = true
	}
	for id := range wanted {
		valid[id] = true
	}
	args := &libcni.GCArgs{ValidAttachments: []types.GCAttachment{}}
	for id := range valid {
		args.ValidAttachments = append(args.ValidAttachments, types.GCAttachment{ContainerID: id, IfName: ifName})
	}
	ctx, cancel := context.WithTimeout(ctx, r.limit)
	defer cancel()
	if err := r.cni.GCNetworkList(ctx, list, args); err != nil {
		if errors.Is(context.Cause(ctx), errYield) {
			return fmt.Errorf("CNI GC of network %q: %w: %w", list.Name, errYield, errdefs.ErrUnavailable)
		}
		return r.explain("GC", list.Name, err)
	}
	return nil
}
