package integration

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// drain reads a stream to its end and gives its items, which are never none in one message.
func drain[M any](t *testing.T, stream grpc.ServerStreamingClient[M], err error, items func(*M) []string) []string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		part := items(m)
		if len(part) == 0 {
			t.Error("a message of the stream is empty")
		}
		all = append(all, part...)
	}
}

func ids[T any](items []T, id func(T) string) []string {
	var all []string
	for _, i := range items {
		all = append(all, id(i))
	}
	return all
}

func TestStreamedListsGiveWhatTheListsGive(t *testing.T) {
	n := harness.Start(t)
	r, ctx := n.Daemon.Runtime, harness.Context(t)
	empty, err := r.StreamPodSandboxes(ctx, &runtime.StreamPodSandboxesRequest{})
	if got := drain(t, empty, err, func(m *runtime.StreamPodSandboxesResponse) []string { return []string{"some"} }); len(got) != 0 {
		t.Errorf("without pods: %v", got)
	}
	// Annotations make the items so large that they do not fit into one message of the usual size.
	var pods, containers []string
	messages := 0
	for range 6 {
		p := n.RunPod(t, func(c *runtime.PodSandboxConfig) {
			c.Annotations = map[string]string{"large": strings.Repeat("x", 300<<10)}
		})
		c := p.Run(t, "app", func(c *runtime.ContainerConfig) {
			c.Annotations = map[string]string{"large": strings.Repeat("x", 300<<10)}
		})
		pods, containers = append([]string{p.ID}, pods...), append([]string{c.ID}, containers...)
	}
	oldestFirst := func(list []string) []string { list = slices.Clone(list); slices.Reverse(list); return list }

	sandboxes, err := r.StreamPodSandboxes(ctx, &runtime.StreamPodSandboxesRequest{})
	got := drain(t, sandboxes, err, func(m *runtime.StreamPodSandboxesResponse) []string {
		messages++
		return ids(m.PodSandboxes, (*runtime.PodSandbox).GetId)
	})
	if !slices.Equal(got, pods) || messages < 2 {
		t.Errorf("StreamPodSandboxes: %v in %d messages", got, messages)
	}
	some, err := r.StreamPodSandboxes(ctx, &runtime.StreamPodSandboxesRequest{Filter: &runtime.PodSandboxFilter{Id: pods[2]}})
	got = drain(t, some, err, func(m *runtime.StreamPodSandboxesResponse) []string {
		return ids(m.PodSandboxes, (*runtime.PodSandbox).GetId)
	})
	if !slices.Equal(got, pods[2:3]) {
		t.Errorf("StreamPodSandboxes of one: %v", got)
	}
	all, err := r.StreamContainers(ctx, &runtime.StreamContainersRequest{})
	got = drain(t, all, err, func(m *runtime.StreamContainersResponse) []string {
		return ids(m.Containers, (*runtime.Container).GetId)
	})
	if !slices.Equal(got, containers) {
		t.Errorf("StreamContainers: %v", got)
	}
	stats, err := r.StreamContainerStats(ctx, &runtime.StreamContainerStatsRequest{})
	got = drain(t, stats, err, func(m *runtime.StreamContainerStatsResponse) []string {
		return ids(m.ContainerStats, func(s *runtime.ContainerStats) string { return s.Attributes.Id })
	})
	if !slices.Equal(got, oldestFirst(containers)) {
		t.Errorf("StreamContainerStats: %v", got)
	}
	podsStats, err := r.StreamPodSandboxStats(ctx, &runtime.StreamPodSandboxStatsRequest{})
	got = drain(t, podsStats, err, func(m *runtime.StreamPodSandboxStatsResponse) []string {
		return ids(m.PodSandboxStats, func(s *runtime.PodSandboxStats) string { return s.Attributes.Id })
	})
	if !slices.Equal(got, oldestFirst(pods)) {
		t.Errorf("StreamPodSandboxStats: %v", got)
	}
	metrics, err := r.StreamPodSandboxMetrics(ctx, &runtime.StreamPodSandboxMetricsRequest{})
	got = drain(t, metrics, err, func(m *runtime.StreamPodSandboxMetricsResponse) []string {
		return ids(m.PodSandboxMetrics, (*runtime.PodSandboxMetrics).GetPodSandboxId)
	})
	if !slices.Equal(got, oldestFirst(pods)) {
		t.Errorf("StreamPodSandboxMetrics: %v", got)
	}
}
