package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// row is one line of the table: what it is, and whether a replacement in place may change it.
type row struct {
	what, value string
	changes     bool
}

// look reads the pod's state from the daemon and from inside the containers.
func (s *show) look(ctx context.Context) ([]row, error) {
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
	return []row{
		{"sandbox ID", short(pod.Status.Id), false},
		{"IP (CRI)", pod.Status.Network.GetIp(), false},
		{"IP (seen inside web)", part[0], false},
		{"volume /data/note", part[1], false},
		{"agent: container ID", short(agent.Id), false},
		{"agent: started at", time.Unix(0, agent.StartedAt).Format("15:04:05.000000000"), false},
		{"web: container ID", short(web.Id), true},
		{"web: image", web.Image.GetImage(), true},
		{"web: /version", part[2], true},
	}, nil
}

// printTable compares the two looks; its error names each line that is not as it should be.
func printTable(before, after []row, outage time.Duration) error {
	w := [3]int{}
	for i := range before {
		w[0], w[1], w[2] = max(w[0], len(before[i].what)), max(w[1], len(before[i].value)), max(w[2], len(after[i].value))
	}
	line := fmt.Sprintf("  %s-+-%s-+-%s-+----------", strings.Repeat("-", w[0]), strings.Repeat("-", w[1]), strings.Repeat("-", w[2]))
	fmt.Printf("\n  %-*s | %-*s | %-*s |\n%s\n", w[0], "", w[1], "before", w[2], "after", line)
	var wrong []error
	for i, b := range before {
		a := after[i]
		verdict := "same"
		if a.value != b.value {
			verdict = "new"
		}
		if (a.value != b.value) != b.changes || a.value == "" {
			verdict += "  (WRONG)"
			wrong = append(wrong, fmt.Errorf("%s: %q before, %q after", b.what, b.value, a.value))
		}
		fmt.Printf("  %-*s | %-*s | %-*s | %s\n", w[0], b.what, w[1], b.value, w[2], a.value, verdict)
	}
	fmt.Printf("%s\n  %-*s   %.1f ms (old process ended → new process running, with the pull in between)\n", line, w[0], "web: outage",
		float64(outage.Microseconds())/1000)
	if outage <= 0 {
		wrong = append(wrong, fmt.Errorf("the outage of %s is not a measurement", outage))
	}
	return errors.Join(wrong...)
}

func short(id string) string {
	if len(id) > 13 {
		return id[:13]
	}
	return id
}
