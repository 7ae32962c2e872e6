package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sync/semaphore"

	"github.com/cri-pouch/cri-pouch/internal/failpoint"
)

// ifName is the pod's interface.
const ifName = "eth0"

// cniRunner runs CNI's verbs. go-cni finds and reads the configuration; the calls go to libcni below it, since go-cni
// takes no folder for the cache, no way to run plugins, no deadline, has no GC, and its DEL knows the present
// configuration only.
type cniRunner struct {
	cni      *libcni.CNIConfig
	limit    time.Duration
	parallel limits
	journal  journal

	turns turns
	mu    sync.Mutex
	live  map[string]bool // attached since the start
}

func newCNIRunner(o Options) *cniRunner {
	return &cniRunner{
		cni:      libcni.NewCNIConfigWithCacheDir(o.CNIBinDirs, o.CNICacheDir, &pluginExec{log: o.Log}),
		limit:    o.CNITimeout,
		parallel: limits{semaphore.NewWeighted(int64(o.Parallel)), semaphore.NewWeighted(int64(o.Parallel))},
		journal:  journal{filepath.Join(o.CNICacheDir, "attachments")},
		live:     map[string]bool{},
	}
}

// Attach runs CNI ADD for the pinned network namespace, sets the sysctls of the interfaces and gives the addresses, the primary one first. After an error
// what plugins had done is released; what could not be released is left to Detach and GC. On the host network there is
// nothing to do.
func (m *Manager) Attach(ctx context.Context, pod Pod) (Attachment, error) {
	if pod.HostNetwork {
		return Attachment{}, nil
	}
	sysctls, err := checkPod(pod)
	if err != nil {
		return Attachment{}, fmt.Errorf("attach sandbox %s: %w", pod.ID, err)
	}
	a, err := m.attachment(pod)
	if err != nil {
		return Attachment{}, fmt.Errorf("attach sandbox %s: %w", pod.ID, err)
	}
	unlock, err := m.locks.lock(ctx, pod.ID)
	if err != nil {
		return Attachment{}, err
	}
	defer unlock()
	if !isNamespace(a.NetNS) {
		return Attachment{}, fmt.Errorf("attach sandbox %s: its network namespace is not pinned: %w", pod.ID, errdefs.ErrFailedPrecondition)
	}
	result, err := m.cni.add(ctx, a)
	if err == nil {
		if err = writeInterfaceSysctls(pod, a.NetNS, sysctls); err != nil {
			err = errors.Join(err, m.cni.releaseFailed(ctx, a))
		}
	}
	if err != nil {
		return Attachment{}, fmt.Errorf("attach sandbox %s: %w", pod.ID, err)
	}
	return result, nil
}

// attachment puts together what ADD is called with.
func (m *Manager) attachment(pod Pod) (*attachment, error) {
	args, err := cniArgs(pod)
	if err != nil {
		return nil, err
	}
	capabilityArgs, err := capabilities(pod)
	if err != nil {
		return nil, err
	}
	list, err := m.conf.current()
	if err != nil {
		return nil, err
	}
	return &attachment{Pod: pod.ID, NetNS: m.Namespaces(pod).Net, Args: args, Capabilities: capabilityArgs, Config: list.Bytes}, nil
}

func (r *cniRunner) add(ctx context.Context, a *attachment) (Attachment, error) {
	// An attachment that is noted already may be of a namespace that is gone: plugins refuse a second ADD.
	if err := r.release(ctx, a.Pod, a.NetNS); err != nil {
		return Attachment{}, err
	}
	if err := r.parallel.add.Acquire(ctx, 1); err != nil {
		return Attachment{}, fmt.Errorf("wait for other CNI ADDs: %w", err)
	}
	defer r.parallel.add.Release(1)
	leave, err := r.turns.use(ctx)
	if err != nil {
		return Attachment{}, err
	}
	defer leave()
	if err := r.journal.put(*a); err != nil {
		return Attachment{}, err
	}
	r.setLive(a.Pod, true)
	result, err := r.runAdd(ctx, a)
	if err != nil {
		return Attachment{}, errors.Join(err, r.releaseFailed(ctx, a))
	}
	failpoint.Hit("network.attached")
	return result, nil
}

// releaseFailed releases what was made for an attachment that failed, whatever has become of ctx.
func (r *cniRunner) releaseFailed(ctx context.Context, a *attachment) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.limit)
	defer cancel()
	return r.release(ctx, a.Pod, a.NetNS)
}

func (r *cniRunner) runAdd(ctx context.Context, a *attachment) (Attachment, error) {
	list, rt, err := a.conf()
	if err != nil {
		return Attachment{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, r.limit)
	defer cancel()
	raw, err := r.cni.AddNetworkList(ctx, list, rt)
	if err != nil {
		return Attachment{}, r.explain("ADD", list.Name, err)
	}
	return readResult(list.Name, raw)
}

// explain adds the network's name, and a class: what a plugin refuses may go well later.
func (r *cniRunner) explain(verb, network string, err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("CNI %s of network %q took longer than %s: %w", verb, network, r.limit, err)
	}
	if errdefs.IsFailedPrecondition(err) || errors.Is(err, context.Canceled) {
		return fmt.Errorf("CNI %s of network %q: %w", verb, network, err)
	}
	return fmt.Errorf("CNI %s of network %q: %w: %w", verb, network, err, errdefs.ErrUnavailable)
}

// readResult takes the pod's own addresses out of a result, which may list interfaces of the host too.
func readResult(network string, raw types.Result) (Attachment, error) {
	result, err := types100.NewResultFromResult(raw)
	if err != nil {
		return Attachment{}, fmt.Errorf("result of CNI network %q: %w", network, err)
	}
	var a Attachment
	for _, ip := range result.IPs {
		if ip.Interface != nil {
			i := *ip.Interface
			if i < 0 || i >= len(result.Interfaces) {
				return Attachment{}, fmt.Errorf("CNI network %q gave an address of interface %d, which is not in its result: %w", network, i, errdefs.ErrFailedPrecondition)
			}
			if result.Interfaces[i].Sandbox == "" || result.Interfaces[i].Name != ifName {
				continue
			}
		}
		if addr, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			a.IPs = append(a.IPs, addr.Unmap())
		}
	}
	if len(a.IPs) == 0 {
		return Attachment{}, fmt.Errorf("CNI network %q gave the pod no address, check its ipam: %w", network, errdefs.ErrFailedPrecondition)
	}
	if a.Result, err = json.Marshal(result); err != nil {
		return Attachment{}, fmt.Errorf("encode result of CNI network %q: %w", network, err)
	}
	return a, nil
}

// Detach runs CNI DEL with the configuration that ADD had, whatever has become of the folder and of the namespace. It
// can be repeated: with an error until all is released, without one from then on.
func (m *Manager) Detach(ctx context.Context, pod Pod) error {
	if pod.HostNetwork {
		return nil
	}
	if err := checkID(pod.ID); err != nil {
		return err
	}
	unlock, err := m.locks.lock(ctx, pod.ID)
	if err != nil {
		return err
	}
	defer unlock()
	if err := m.cni.release(ctx, pod.ID, m.Namespaces(pod).Net); err != nil {
		return fmt.Errorf("detach sandbox %s: %w", pod.ID, err)
	}
	return nil
}

// release runs DEL when the sandbox has an attachment. The caller holds the sandbox's lock.
func (r *cniRunner) release(ctx context.Context, id, netns string) error {
	a, err := r.journal.get(id)
	if err != nil {
		return err
	}
	if a == nil {
		return r.journal.drop(id)
	}
	list, rt, err := a.conf()
	if err != nil {
		return err
	}
	// Plugins release what is outside of the namespace when there is none (CNI spec, DEL).
	if rt.NetNS = netns; !isNamespace(netns) {
		rt.NetNS = ""
	}
	if err := r.parallel.del.Acquire(ctx, 1); err != nil {
		return fmt.Errorf("wait for other CNI DELs: %w", err)
	}
	defer r.parallel.del.Release(1)
	leave, err := r.turns.use(ctx)
	if err != nil {
		return err
	}
	defer leave()
	ctx, cancel := context.WithTimeout(ctx, r.limit)
	defer cancel()
	if err := r.cni.DelNetworkList(ctx, list, rt); err != nil {
		return r.explain("DEL", list.Name, err)
	}
	failpoint.Hit("network.detached")
	r.setLive(id, false)
	return r.journal.drop(id)
}

func (r *cniRunner) setLive(id string, live bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if live {
		r.live[id] = true
	} else {
		delete(r.live, id)
	}
}
