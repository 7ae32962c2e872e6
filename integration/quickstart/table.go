package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/comparison"
)

// look reads the pod's state from the daemon and from inside the containers.
func (s *show) look(ctx context.Context) ([]comparison.Row, error) {
	pod, err := s.lab.Daemon.Runtime.PodSandboxStatus(ctx, &runtime.PodSandboxStatusRequest{PodSandboxId: s.podID})
	if err != nil {
		return nil, fmt.Errorf("status of the pod: %w", err)
	}
	web, err := s.status(ctx, s.web)
	if err != nil {
		return nil, err
	}
	agent, err := s.status(ctx, s.agent)
	if err != nil {
		return nil, err
	}
	for _, c := range []*runtime.ContainerStatus{web, agent} {
		if c.State != runtime.ContainerState_CONTAINER_RUNNING {
			return nil, fmt.Errorf("container %s is %s: %s %s", c.Metadata.Name, c.State, c.Reason, c.Message)
		}
	}
	inside, err := s.exec(ctx, s.web, "sh", "-c", "hostname -i; cat /data/note; cat /version")
	if err != nil {
		return nil, err
	}
	part := strings.Split(inside, "\n")
	if len(part) != 3 {
		return nil, fmt.Errorf("container web says %q", inside)
	}
	return []comparison.Row{
		comparison.Kept("sandbox ID", comparison.Short(pod.Status.Id)),
		comparison.Kept("IP (CRI)", pod.Status.Network.GetIp()),
		comparison.Kept("IP (seen inside web)", part[0]),
		comparison.Kept("volume /data/note", part[1]),
		comparison.Kept("agent: container ID", comparison.Short(agent.Id)),
		comparison.Kept("agent: started at", time.Unix(0, agent.StartedAt).Format("15:04:05.000000000")),
		comparison.Changed("web: container ID", comparison.Short(web.Id)),
		comparison.Changed("web: image", web.Image.GetImage()),
		comparison.Changed("web: /version", part[2]),
	}, nil
}

// printTable compares the two looks; its error names each line that is not as it should be.
func printTable(before, after []comparison.Row, outage time.Duration) error {
	wrong := comparison.Print(before, after, func(width int) string {
		return fmt.Sprintf("%-*s   %.1f ms (old process ended → new process running, with the pull in between)", width, "web: outage",
			float64(outage.Microseconds())/1000)
	})
	if outage <= 0 {
		wrong = errors.Join(wrong, fmt.Errorf("the outage of %s is not a measurement", outage))
	}
	return wrong
}
