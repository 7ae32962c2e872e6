package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/internal/hookrun"
	"github.com/cri-pouch/cri-pouch/internal/undo"
)

// scratchLimit is how long taking a scratch pod away may take: its poststop hooks have their time.
const scratchLimit = 3 * time.Minute

// HookTest says which hooks to try.
type HookTest struct {
	RunOptions
	Prestart, Poststop string // lists as an annotation has them; empty: none
	// Run runs the image's command (or RunOptions') to its end between the hooks. Else the program is what runs the hooks, which is
	// in the container already, whatever the image has; it does nothing.
	Run bool
}

// TestHooks runs hooks around a container of a pod of their own, and removes both, whatever happens. It gives what became of the
// hooks that were run. An error says why they could not be; that a hook failed is none.
func (c *Client) TestHooks(ctx context.Context, o HookTest) (_ []hookrun.Result, err error) {
	if err := c.ensureImage(ctx, o.RunOptions); err != nil {
		return nil, err
	}
	o.Name = "hooks-" + randomHex(3)
	o.Pod = o.Name
	o.Annotations = map[string]string{"rich.cri-pouch.io/mode": "none"}
	for stage, text := range map[hookrun.Stage]string{hookrun.Prestart: o.Prestart, hookrun.Poststop: o.Poststop} {
		if text != "" {
			o.Annotations["hooks.cri-pouch.io/"+string(stage)] = text
		}
	}
	var steps undo.Stack
	defer func() {
		if undoErr := steps.Run(ctx, scratchLimit); undoErr != nil {
			err = errors.Join(err, fmt.Errorf("pod %s could not be removed: %w", o.Pod, undoErr))
		}
	}()
	if o.LogRoot, err = os.MkdirTemp("", "cri-pouch-hooks-"); err != nil {
		return nil, err
	}
	steps.Add("remove log folder", func(context.Context) error { return os.RemoveAll(o.LogRoot) })
	pod, _, err := c.ensurePod(ctx, o.RunOptions, &steps)
	if err != nil {
		return nil, err
	}
	id, err := c.createScratch(ctx, pod, o)
	if err != nil {
		return nil, err
	}
	lived := c.liveScratch(ctx, id)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	results, err := c.hookResults(ctx, id)
	if err == nil && lived != nil && !failed(results) { // it was none of the hooks
		err = lived
	}
	return results, err
}

func (c *Client) createScratch(ctx context.Context, pod string, o HookTest) (string, error) {
	config := newPodConfig(o.RunOptions)
	status, err := c.Runtime.PodSandboxStatus(ctx, &runtime.PodSandboxStatusRequest{PodSandboxId: pod})
	if err != nil {
		return "", err
	}
	config.Metadata = status.GetStatus().GetMetadata()
	container := containerConfig(o.RunOptions, config)
	container.Annotations = nil
	if !o.Run {
		// The launcher runs itself once more, as what ends with 0.
		container.Command, container.Args = []string{hookrun.Launcher, "/proc/self/exe", "true"}, nil
	}
	created, err := c.Runtime.CreateContainer(ctx, &runtime.CreateContainerRequest{PodSandboxId: pod, Config: container, SandboxConfig: config})
	return created.GetContainerId(), err
}

// liveScratch starts a container and lets it end.
func (c *Client) liveScratch(ctx context.Context, id string) error {
	following, stop := context.WithCancel(ctx)
	defer stop()
	events, err := c.Runtime.GetContainerEvents(following, &runtime.GetEventsRequest{})
	if err != nil {
		return err
	}
	if _, err := c.Runtime.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: id}); err != nil {
		return err
	}
	for {
		status, err := c.Runtime.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: id})
		if err != nil || status.GetStatus().GetState() == runtime.ContainerState_CONTAINER_EXITED {
			return err
		}
		if _, err := events.Recv(); err != nil { // of any container: few happen meanwhile
			return err
		}
	}
}

// hookResults reads what became of a container's hooks.
func (c *Client) hookResults(ctx context.Context, id string) ([]hookrun.Result, error) {
	resp, err := c.Runtime.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: id, Verbose: true})
	if err != nil {
		return nil, err
	}
	var info struct {
		Hooks []hookrun.Result `json:"hooks"`
	}
	if err := json.Unmarshal([]byte(resp.GetInfo()["info"]), &info); err != nil {
		return nil, fmt.Errorf("verbose status of container %s: %w", ShortID(id), err)
	}
	return info.Hooks, nil
}

func failed(results []hookrun.Result) bool {
	for _, r := range results {
		if r.Outcome != hookrun.Succeeded && !r.Ignored {
			return true
		}
	}
	return false
}
