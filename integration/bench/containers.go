package bench

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// kept runs fn with one pod of each target, which stay up meanwhile.
func (b *bench) kept(ctx context.Context, fn func(pods map[*target]*pod) error) error {
	pods := map[*target]*pod{}
	defer func() {
		for _, p := range pods {
			_ = p.down(context.WithoutCancel(ctx)) // what is left goes with the runtime
		}
	}()
	for _, t := range b.targets {
		p, err := b.up(ctx, t, false)
		if err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
		pods[t] = p
	}
	return fn(pods)
}

// execs measures ExecSync of a command that does nothing.
func (b *bench) execs(ctx context.Context) error {
	return b.kept(ctx, func(pods map[*target]*pod) error {
		return b.inTurn(ctx, 2*b.Rounds, func(ctx context.Context, t turn) error {
			return t.timed("ExecSync", func() error {
				r, err := t.runtime.ExecSync(ctx, &runtime.ExecSyncRequest{ContainerId: pods[t.target].container, Cmd: []string{"true"}, Timeout: 10})
				if err == nil && r.ExitCode != 0 {
					err = fmt.Errorf("exit code %d: %s", r.ExitCode, r.Stderr)
				}
				return named("ExecSync", err)
			})
		})
	})
}

// logs measures a container that prints numbered lines as fast as it can, from its start until it has ended, whose log is then
// complete. Every line is looked at.
func (b *bench) logs(ctx context.Context) error {
	return b.inTurn(ctx, b.long(), func(ctx context.Context, t turn) error {
		p, err := b.sandbox(ctx, t.target, false)
		if err != nil {
			return err
		}
		c := container("app", imageOld, 0, "sh", "-c", fmt.Sprintf("seq 1 %d", b.Lines))
		if p.container, err = p.create(ctx, c); err != nil {
			return err
		}
		err = t.timed(fmt.Sprintf("%d log lines", b.Lines), func() error {
			if err := p.start(ctx, p.container); err != nil {
				return err
			}
			return p.awaitEnd(ctx)
		})
		if err != nil {
			return err
		}
		if err := checkLog(ctx, filepath.Join(p.config.LogDirectory, c.LogPath), b.Lines); err != nil {
			return err
		}
		return p.down(ctx)
	})
}

func (p *pod) awaitEnd(ctx context.Context) error {
	for {
		r, err := p.t.runtime.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: p.container})
		if err != nil {
			return fmt.Errorf("ContainerStatus: %w", err)
		}
		if r.Status.State == runtime.ContainerState_CONTAINER_EXITED {
			return nil
		}
		if err := pause(ctx, 2*time.Millisecond); err != nil {
			return err
		}
	}
}

// checkLog fails unless the log holds the numbers 1 to lines. A runtime may write its last lines after the end is told.
func checkLog(ctx context.Context, path string, lines int) error {
	var err error
	for range 50 {
		if err = readNumbers(path, lines); err == nil {
			return nil
		}
		if stop := pause(ctx, 100*time.Millisecond); stop != nil {
			return stop
		}
	}
	return err
}

func readNumbers(path string, lines int) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	got, line := 0, ""
	for s := bufio.NewScanner(f); s.Scan(); {
		part := strings.SplitN(s.Text(), " ", 4)
		if len(part) != 4 {
			return fmt.Errorf("%s: entry %q is malformed", path, s.Text())
		}
		if line += part[3]; part[2] == "P" { // continued by the next entry
			continue
		}
		if got++; line != fmt.Sprint(got) {
			return fmt.Errorf("%s: line %d reads %q", path, got, line)
		}
		line = ""
	}
	if got != lines {
		return fmt.Errorf("%s has %d of %d lines", path, got, lines)
	}
	return nil
}

// idleContainers is how many containers, created only, a pod has beside its running one while lists are measured.
const idleContainers = 4

// lists measures the calls that a kubelet repeats, with many containers there.
func (b *bench) lists(ctx context.Context) error {
	for _, t := range b.targets {
		err := b.withPods(ctx, t, b.Burst, true, func(pods []*pod) error { return b.listsOf(ctx, t, pods) })
		if err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
	}
	return nil
}

func (b *bench) listsOf(ctx context.Context, t *target, pods []*pod) error {
	for _, p := range pods {
		for i := range idleContainers {
			if _, err := p.create(ctx, container(fmt.Sprintf("idle%d", i), imageOld, 0)); err != nil {
				return err
			}
		}
	}
	of := fmt.Sprintf(" (%d pods, %d containers)", len(pods), len(pods)*(1+idleContainers))
	enough := func(got, want int, err error) error {
		if err == nil && got < want {
			err = fmt.Errorf("%d of %d are listed", got, want)
		}
		return err
	}
	for range 2 * b.Rounds {
		err := turn{t, b.figures, 0}.steps("",
			step{"ListPodSandbox" + of, func() error {
				r, err := t.runtime.ListPodSandbox(ctx, &runtime.ListPodSandboxRequest{})
				return named("ListPodSandbox", enough(len(r.GetItems()), len(pods), err))
			}},
			step{"ListContainers" + of, func() error {
				r, err := t.runtime.ListContainers(ctx, &runtime.ListContainersRequest{})
				return named("ListContainers", enough(len(r.GetContainers()), len(pods)*(1+idleContainers), err))
			}},
			step{"ListContainerStats" + of, func() error {
				r, err := t.runtime.ListContainerStats(ctx, &runtime.ListContainerStatsRequest{})
				return named("ListContainerStats", enough(len(r.GetStats()), len(pods), err))
			}},
			step{"ListPodSandboxStats" + of, func() error {
				r, err := t.runtime.ListPodSandboxStats(ctx, &runtime.ListPodSandboxStatsRequest{})
				return named("ListPodSandboxStats", enough(len(r.GetStats()), len(pods), err))
			}},
			step{"ContainerStatus" + of, func() error {
				_, err := t.runtime.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: pods[0].container})
				return named("ContainerStatus", err)
			}},
		)
		if err != nil {
			return err
		}
	}
	return nil
}

// collected is how long a runtime gets to collect the content of a removed image, which cri-pouch does after its answer.
const collected = 500 * time.Millisecond

// pulls measures images that the node has nothing of, then their next versions, of which the last layer is missing only, and
// images that are all there.
func (b *bench) pulls(ctx context.Context) error {
	for _, i := range []struct{ what, image, next string }{{"small image", imagePulled, ""}, {"image of 5 layers", imageBig, imageBigNext}} {
		err := b.inTurn(ctx, b.long(), func(ctx context.Context, t turn) error {
			calls := []step{{"PullImage, " + i.what, func() error { return t.pull(ctx, i.image) }}}
			if i.next != "" {
				calls = append(calls, step{"PullImage, its next version", func() error { return t.pull(ctx, i.next) }})
			}
			calls = append(calls, step{"PullImage, " + i.what + " that is present", func() error { return t.pull(ctx, i.image) }})
			// cri-pouch waits until its layers are on the disk. It must not wait for what the other one left in memory.
			unix.Sync()
			if err := t.steps("", calls...); err != nil {
				return err
			}
			if i.next != "" {
				if err := t.removeImage(ctx, i.next); err != nil {
					return err
				}
			}
			if err := t.removeImage(ctx, i.image); err != nil {
				return err
			}
			return pause(ctx, collected)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
