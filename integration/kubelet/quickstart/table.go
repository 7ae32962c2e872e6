package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// row is one line of the table: what it is, and whether the edit may change it.
type row struct {
	what, value string
	changes     bool
}

// look reads the pod's state from the API server, the runtime and the containers.
func (s *show) look(ctx context.Context) ([]row, error) {
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
	return []row{
		{"pod UID", string(pod.UID), false},
		{"pod IP", pod.Status.PodIP, false},
		{"sandbox ID", short(sandboxes.Items[0].Id), false},
		{"emptyDir: /data/note", note, false},
		{"agent: container ID", short(agent.Status.Id), false},
		{"agent: started at", time.Unix(0, agent.Status.StartedAt).Format("15:04:05.000000000"), false},
		{"web: container ID", short(id(web.ContainerID)), true},
		{"web: image", web.Image, true},
		{"web: imageID", short(web.ImageID[strings.LastIndex(web.ImageID, ":")+1:]), true},
		{"web: restarts", fmt.Sprint(web.RestartCount), true},
		{"web: /version", version, true},
	}, nil
}

func id(containerID string) string {
	_, id, _ := strings.Cut(containerID, "://")
	return id
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
	fmt.Printf("%s\n  web: outage of its port, the pull included: %.1f ms\n", line, float64(outage.Microseconds())/1000)
	return errors.Join(wrong...)
}

func short(id string) string { return id[:min(13, len(id))] }
