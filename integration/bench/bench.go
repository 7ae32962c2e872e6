// Package bench measures container runtimes from outside, over their CRI sockets, as a kubelet drives them: cri-pouch, and beside
// it containerd with runc on the same network, images and registry. The runtimes take turns round by round, so that their
// ratios hold on a machine with other load. Nothing of it stays on the machine.
package bench

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/cri-pouch/cri-pouch/integration/lab"
)

// Options say what is measured and how often.
type Options struct {
	Binary string // cri-pouch; its helpers stand beside it
	CNIBin string // folder of the CNI plugins
	Peers  string // folder of containerd, its shim and runc (see BuildPeers); empty: without containerd
	Before string // another build's cri-pouch, its helpers beside it, measured as "before"; empty: none
	Rounds int    // of each measurement but the long ones, which run at most LongRounds times
	Burst  int    // pods at once, pods kept for lists and memory
	Lines  int    // of the log
	Only   string // beginning of the name of the measurements to run; empty: all
	Say    func(format string, args ...any)
}

// LongRounds bounds the measurements that take seconds each.
const LongRounds = 5

// Sizes of a full run.
const (
	FullRounds = 15
	FullBurst  = 20
	FullLines  = 200_000
)

// Figures whose quotients say more than they do.
const (
	opSwap      = "in-place swap (stop, create, start)"
	opFreshSwap = "the same calls without an upgrade"
	opRecreate  = "pod recreated"
)

// bench is one run.
type bench struct {
	Options
	lab     *lab.Lab
	targets []*target
	figures *figures
	mu      sync.Mutex
	serial  int // of the pods so far
}

// Run measures and gives the report. What it started it ends, also after an error or when ctx ends.
func Run(ctx context.Context, o Options) (report *Report, err error) {
	if o.Rounds < 1 || o.Burst < 1 || o.Lines < 1 {
		return nil, fmt.Errorf("rounds %d, burst %d and lines %d must be at least 1", o.Rounds, o.Burst, o.Lines)
	}
	if o.Say == nil {
		o.Say = func(string, ...any) {}
	}
	machine, err := lookAtMachine()
	if err != nil {
		return nil, err
	}
	b := &bench{Options: o, figures: newFigures()}
	if b.lab, err = lab.New(ctx, lab.Options{Binary: o.Binary, CNIBin: o.CNIBin}); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.lab.Close(context.WithoutCancel(ctx))) }()
	if err := b.pushImages(); err != nil {
		return nil, err
	}
	if o.Peers != "" {
		o.Say("starting containerd")
		p, err := startPeer(ctx, b.lab, o.Peers)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, p.close(context.WithoutCancel(ctx))) }()
		b.targets = append(b.targets, p.target())
	}
	if o.Before != "" {
		before, failed := lab.New(ctx, lab.Options{Binary: o.Before, CNIBin: o.CNIBin})
		if failed != nil {
			return nil, failed
		}
		defer func() { err = errors.Join(err, before.Close(context.WithoutCancel(ctx))) }()
		if err := b.lab.Images.WriteHosts(before.RegistryDir(), lab.Domain); err != nil {
			return nil, err
		}
		if err := b.start(ctx, "before", before); err != nil {
			return nil, err
		}
	}
	if err := b.start(ctx, "cri-pouch", b.lab); err != nil {
		return nil, err
	}
	for _, t := range b.targets {
		if err := t.ready(ctx); err != nil {
			return nil, err
		}
	}
	if err := b.all(ctx); err != nil {
		return nil, err
	}
	if len(b.figures.order) == 0 {
		return nil, fmt.Errorf("no measurement's name begins with %q", o.Only)
	}
	return &Report{Lab: b.lab.Name, Machine: machine, Rounds: o.Rounds, Burst: o.Burst, Runtimes: b.versions(), Figures: b.figures.summary()}, nil
}

// start begins a cri-pouch and makes it a target.
func (b *bench) start(ctx context.Context, name string, l *lab.Lab) error {
	b.Say("starting %s in %s", name, l.Dir)
	d := l.Daemon
	if err := d.Start(ctx); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	b.targets = append(b.targets, &target{
		name: name, runtime: d.Runtime, images: d.Images, cgroup: l.CgroupParent() + "/cri-pouch",
		processes: func() ([]int, error) {
			pids, err := d.Shims()
			return append(pids, d.PID()), err
		},
	})
	return nil
}

func (b *bench) versions() []Runtime {
	var all []Runtime
	for _, t := range b.targets {
		all = append(all, Runtime{t.name, t.version})
	}
	return all
}

// all runs every measurement. Memory comes first: what a heap has once held for others would count as the pods'.
func (b *bench) all(ctx context.Context) error {
	for _, m := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"memory", b.memory}, {"pods on CNI", b.pods(false)}, {"pods on the host network", b.pods(true)}, {"swaps", b.swaps}, {"execs", b.execs},
		{"logs", b.logs}, {"lists", b.lists}, {"bursts", b.bursts}, {"pulls", b.pulls},
	} {
		if !strings.HasPrefix(m.name, b.Only) {
			continue
		}
		began := time.Now()
		if err := m.run(ctx); err != nil {
			return fmt.Errorf("measure %s: %w", m.name, err)
		}
		b.Say("%s measured in %.1f s", m.name, time.Since(began).Seconds())
	}
	return nil
}

// turn is one target's part in a round.
type turn struct {
	*target
	*figures
	round int
}

// inTurn calls fn rounds times for each target, in turn, the first to begin changing from round to round, after a round that is
// not counted.
func (b *bench) inTurn(ctx context.Context, rounds int, fn func(context.Context, turn) error) error {
	for round := -1; round < rounds; round++ {
		into := b.figures
		if round < 0 {
			into = newFigures()
		}
		for i := range b.targets {
			t := b.targets[(i+round+1)%len(b.targets)]
			if err := fn(ctx, turn{t, into, round}); err != nil {
				return fmt.Errorf("%s: %w", t.name, err)
			}
		}
	}
	return nil
}

func (b *bench) long() int { return min(b.Rounds, LongRounds) }

func (b *bench) logDir(uid string) string { return filepath.Join(b.lab.LogDir(), uid) }
