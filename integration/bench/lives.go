package bench

import (
	"context"
	"fmt"
	"sync"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// pods measures the life of a pod with one container, call by call.
func (b *bench) pods(hostNetwork bool) func(context.Context) error {
	where := "CNI"
	if hostNetwork {
		where = "host network"
	}
	return func(ctx context.Context) error {
		return b.inTurn(ctx, b.Rounds, func(ctx context.Context, t turn) (err error) {
			var p *pod
			// The calls for containers are the same on every network: they are told once.
			call := func(op string) string {
				if hostNetwork {
					return ""
				}
				return op
			}
			err = t.steps("pod up, "+where,
				step{"RunPodSandbox, " + where, func() (err error) { p, err = b.sandbox(ctx, t.target, hostNetwork); return err }},
				step{call("CreateContainer"), func() (err error) { p.container, err = p.create(ctx, container("app", imageOld, 0)); return err }},
				step{call("StartContainer"), func() error { return p.start(ctx, p.container) }},
			)
			if err != nil {
				return err
			}
			defer p.removeCgroup()
			return t.steps("pod down, "+where,
				step{call("StopContainer"), func() error { return p.stop(ctx, p.container) }},
				step{call("RemoveContainer"), func() error { return p.remove(ctx, p.container) }},
				step{"StopPodSandbox, " + where, func() error { return p.stopSandbox(ctx) }},
				step{"RemovePodSandbox, " + where, func() error { return p.removeSandbox(ctx) }},
			)
		})
	}
}

// swaps measures what a kubelet does when a container's image was edited: the same container anew in its sandbox. Beside it
// stand the same three calls where the new container is no successor of the old one, and the pod made anew.
func (b *bench) swaps(ctx context.Context) error {
	return b.inTurn(ctx, b.Rounds, func(ctx context.Context, t turn) error {
		p, err := b.up(ctx, t.target, false)
		if err != nil {
			return err
		}
		upgrade := func() error { return p.swap(ctx, t, opSwap, container("app", imageNew, 1)) }
		fresh := func() error { return p.swap(ctx, t, opFreshSwap, container("other", imageNew, 0)) }
		again := func() error { return p.swap(ctx, t, "", container("app", imageOld, 0)) }
		// Neither may always be the first in its pod.
		order := []func() error{upgrade, fresh}
		if t.round%2 == 0 {
			order = []func() error{fresh, again, upgrade}
		}
		for _, fn := range order {
			if err := fn(); err != nil {
				return err
			}
		}
		return b.recreate(ctx, t, p)
	})
}

// swap puts a container in the place of the pod's; what that took is noted under total, where it has a name.
func (p *pod) swap(ctx context.Context, t turn, total string, next *runtime.ContainerConfig) error {
	old := p.container
	err := t.steps(total,
		step{"", func() error { return p.stop(ctx, old) }},
		step{"", func() (err error) { p.container, err = p.create(ctx, next); return err }},
		step{"", func() error { return p.start(ctx, p.container) }},
	)
	if err != nil {
		return err
	}
	return p.remove(ctx, old)
}

// recreate takes the pod down and brings it up again.
func (b *bench) recreate(ctx context.Context, t turn, p *pod) error {
	err := t.timed(opRecreate, func() (err error) {
		if err := p.stop(ctx, p.container); err != nil {
			return err
		}
		if err := p.down(ctx); err != nil {
			return err
		}
		p, err = b.up(ctx, t.target, false)
		return err
	})
	if err != nil {
		return err
	}
	return p.down(ctx)
}

// bursts measures many pods brought up at once, then taken down at once.
func (b *bench) bursts(ctx context.Context) error {
	return b.inTurn(ctx, min(b.long(), 3), func(ctx context.Context, t turn) error {
		pods := make([]*pod, b.Burst)
		each := func(fn func(i int) error) error {
			errs := make([]error, len(pods))
			var wg sync.WaitGroup
			for i := range pods {
				wg.Go(func() { errs[i] = fn(i) })
			}
			wg.Wait()
			for _, err := range errs {
				if err != nil {
					return err
				}
			}
			return nil
		}
		return t.steps("",
			step{fmt.Sprintf("%d pods up at once, CNI", b.Burst), func() error {
				return each(func(i int) (err error) { pods[i], err = b.up(ctx, t.target, false); return err })
			}},
			step{fmt.Sprintf("%d pods down at once, CNI", b.Burst), func() error {
				return each(func(i int) error { return pods[i].down(ctx) })
			}},
		)
	})
}

// settle is how long a runtime is left alone before its memory is looked at.
const settle = 3 * time.Second

// memory measures what daemon, shims and pause processes hold (PSS), without pods and for each pod.
func (b *bench) memory(ctx context.Context) error {
	for _, t := range b.targets {
		p, err := b.up(ctx, t, false)
		if err == nil {
			err = p.down(ctx)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
	}
	for _, t := range b.targets {
		if err := b.memoryOf(ctx, t); err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
	}
	return nil
}

func (b *bench) memoryOf(ctx context.Context, t *target) error {
	if err := pause(ctx, settle); err != nil {
		return err
	}
	idle, count, err := pss(t.processes)
	if err != nil {
		return err
	}
	return b.withPods(ctx, t, b.Burst, false, func([]*pod) error {
		if err := pause(ctx, settle); err != nil {
			return err
		}
		busy, more, err := pss(t.processes)
		if err != nil {
			return err
		}
		b.figures.addValue(t.name, "memory without pods", "MiB", float64(idle)/(1<<20))
		b.figures.addValue(t.name, fmt.Sprintf("memory with %d pods", b.Burst), "MiB", float64(busy)/(1<<20))
		b.figures.addValue(t.name, "memory per pod", "MiB", max(float64(busy)-float64(idle), 0)/float64(b.Burst)/(1<<20))
		b.figures.addValue(t.name, "processes per pod", "", float64(more-count)/float64(b.Burst))
		return nil
	})
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
