package lab

import (
	"context"
	"fmt"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TakeDown stops and removes the lab's only pod with all its containers, and the images, and makes sure that the daemon
// knows of no container and the network of no address any more.
func (l *Lab) TakeDown(ctx context.Context, podID string, images ...string) error {
	if _, err := l.Daemon.Runtime.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: podID}); err != nil {
		return fmt.Errorf("stop the pod: %w", err)
	}
	if _, err := l.Daemon.Runtime.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: podID}); err != nil {
		return fmt.Errorf("remove the pod: %w", err)
	}
	for _, image := range images {
		if _, err := l.Daemon.Images.RemoveImage(ctx, &runtime.RemoveImageRequest{Image: &runtime.ImageSpec{Image: image}}); err != nil {
			return fmt.Errorf("remove image %s: %w", image, err)
		}
	}
	containers, err := l.Daemon.Runtime.ListContainers(ctx, &runtime.ListContainersRequest{})
	if err != nil {
		return err
	}
	taken, err := l.Network.Reserved()
	if err != nil {
		return err
	}
	if len(containers.Containers) > 0 || len(taken) > 0 {
		return fmt.Errorf("left behind: %d containers, addresses %v", len(containers.Containers), taken)
	}
	return nil
}
