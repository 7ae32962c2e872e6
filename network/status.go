package network

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"

	"github.com/cri-pouch/cri-pouch/internal/crash"
)

const (
	statusFresh = 5 * time.Second  // how long an answer of the plugins counts
	statusWait  = 2 * time.Second  // how long a client waits for the next one; then the last one counts
	statusLimit = 10 * time.Second // of one answer
)

// statusProbe asks the plugins by CNI STATUS whether they can connect pods (spec 1.1). It asks when somebody wants to know, and one
// question at a time: there is no event, and a plugin may hang.
type statusProbe struct {
	mu     sync.Mutex
	config string // that was asked for; what another one's plugins have said does not count
	last   error  // of the last answer
	at     time.Time
	asking chan struct{} // closed when the answer is there; nil: nobody asks
}

// Ready is nil when a CNI configuration is loaded, its plugins are there and, where they know CNI STATUS, say that they can connect
// pods. The error is the reason and the fix, or the plugin's own words.
func (m *Manager) Ready(ctx context.Context) error {
	list, err := m.conf.current()
	if err != nil {
		return err
	}
	asking := m.status.begin(string(list.Bytes), func() error { return m.cni.status(list) })
	if asking != nil {
		timer := time.NewTimer(statusWait)
		defer timer.Stop()
		select {
		case <-asking:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	m.status.mu.Lock()
	defer m.status.mu.Unlock()
	switch {
	case m.status.config != string(list.Bytes):
		return fmt.Errorf("the CNI configuration is being replaced: %w", errdefs.ErrUnavailable)
	case m.status.at.IsZero():
		return fmt.Errorf("CNI STATUS of network %q has not answered yet: %w", list.Name, errdefs.ErrUnavailable)
	}
	return m.status.last
}

// begin asks unless there is a fresh answer, and returns what tells of the end of a question under way.
func (p *statusProbe) begin(config string, ask func() error) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.config != config {
		p.config, p.last, p.at, p.asking = config, nil, time.Time{}, nil
	}
	if p.asking == nil && (p.at.IsZero() || time.Since(p.at) > statusFresh) {
		asking := make(chan struct{})
		p.asking = asking
		crash.Go(nil, "ask CNI for its status", func() {
			defer close(asking)
			err := crash.Try(nil, "ask CNI for its status", ask)
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.asking == asking {
				p.last, p.at, p.asking = err, time.Now(), nil
			}
		})
	}
	return p.asking
}

// status runs CNI STATUS; a network of an older spec has none.
func (r *cniRunner) status(list *libcni.NetworkConfigList) error {
	ctx, cancel := context.WithTimeout(context.Background(), statusLimit)
	defer cancel()
	err := r.cni.GetStatusNetworkList(ctx, list)
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("CNI STATUS of network %q took longer than %s: %w", list.Name, statusLimit, err)
	}
	if err != nil {
		return fmt.Errorf("CNI STATUS of network %q: %w: %w", list.Name, err, errdefs.ErrUnavailable)
	}
	return nil
}
