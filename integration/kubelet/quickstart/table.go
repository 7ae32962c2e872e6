package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/comparison"
)

// look reads the pod's state from the API server, the runtime and the containers.
func (s *show) look(ctx context.Context) ([]comparison.Row, error) {
	pod, err := s.pod(ctx)
	if err != nil {
		return nil, err
	}
	sandboxes, err := s.c.Lab.Daemon.Runtime.ListPodSandbox(ctx, &runtime.ListPodSandboxRequest{Filter: &runtime.PodSandboxFilter{
		LabelSelector: map[string]string{"io.kubernetes.pod.uid": string(pod.UID)},
	}})
	if err != nil || len(sandboxes.Items) != 1 {
		return nil, fmt.Errorf("the pod has the sandboxes %v, not one (%v)", sandboxes.GetItems(), err)
	}
	version, err := s.kubectl(ctx, "", "exec", "shop", "-c", "web", "--", "cat", "/version")
	if err != nil {
		return nil, err
	}
	note, err := s.kubectl(ctx, "", "exec", "shop", "-c", "web", "--", "head", "-1", "/data/note")
	if err != nil {
		return nil, err
	}
	agent, err := s.c.Lab.Daemon.Runtime.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: id(status(pod, "agent").ContainerID)})
	if err != nil {
		return nil, err
	}
	web := status(pod, "web")
	return []comparison.Row{
		comparison.Kept("pod UID", string(pod.UID)),
		comparison.Kept("pod IP", pod.Status.PodIP),
		comparison.Kept("sandbox ID", comparison.Short(sandboxes.Items[0].Id)),
		comparison.Kept("emptyDir: /data/note", note),
		comparison.Kept("agent: container ID", comparison.Short(agent.Status.Id)),
		comparison.Kept("agent: started at", time.Unix(0, agent.Status.StartedAt).Format("15:04:05.000000000")),
		comparison.Changed("web: container ID", comparison.Short(id(web.ContainerID))),
		comparison.Changed("web: image", web.Image),
		comparison.Changed("web: imageID", comparison.Short(web.ImageID[strings.LastIndex(web.ImageID, ":")+1:])),
		comparison.Changed("web: restarts", fmt.Sprint(web.RestartCount)),
		comparison.Changed("web: /version", version),
	}, nil
}

func id(containerID string) string {
	_, id, _ := strings.Cut(containerID, "://")
	return id
}

// printTable compares the two looks; its error names each line that is not as it should be.
func printTable(before, after []comparison.Row, outage time.Duration) error {
	return comparison.Print(before, after, func(int) string {
		return fmt.Sprintf("web: outage of its port, the pull included: %.1f ms", float64(outage.Microseconds())/1000)
	})
}
