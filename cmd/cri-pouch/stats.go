package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/cmd/cri-pouch/client"
	"github.com/cri-pouch/cri-pouch/cmd/cri-pouch/table"
)

// The span that a CPU rate is measured over.
const (
	statsSpan    = time.Second
	statsSpanMin = 100 * time.Millisecond
	statsSpanMax = time.Hour
)

func (a *app) statsCommand() *cobra.Command {
	var pods bool
	var span time.Duration
	cmd := &cobra.Command{
		Use: "stats [CONTAINER|POD...]", Short: "Show what containers or pods use",
		Long: "Show what the running containers, or with --pods the ready pods, use: all of them, or those named.\n" +
			"CPU is measured over --span, in percent of one core; MEMORY is the working set; DISK the writable layer.",
		RunE: func(cmd *cobra.Command, names []string) error {
			if span < statsSpanMin || span > statsSpanMax {
				return usagef("--span is %s, it must be from %s to %s", span, statsSpanMin, statsSpanMax)
			}
			return a.call(cmd.Context(), func(c *client.Client) error {
				read := containerStats
				if pods {
					read = podStats
				}
				l, err := read(cmd.Context(), c, names, span)
				if err != nil {
					return err
				}
				return a.print(l)
			})
		},
	}
	cmd.Flags().BoolVar(&pods, "pods", false, "pods instead of containers; the names are those of pods")
	cmd.Flags().DurationVar(&span, "span", statsSpan, "how long the CPU use is `measured`")
	a.outputFlags(cmd, true)
	return cmd
}

// twice reads twice and gives the second answer, with the CPU time that each object (by ID) had at the first.
func twice[T any](ctx context.Context, span time.Duration, read func() ([]T, error), id func(T) string, cpu func(T) *runtime.CpuUsage) ([]T, map[string]*runtime.CpuUsage, error) {
	first, err := read()
	if err != nil {
		return nil, nil, err
	}
	before := map[string]*runtime.CpuUsage{}
	for _, s := range first {
		before[id(s)] = cpu(s)
	}
	select {
	case <-time.After(span):
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	second, err := read()
	return second, before, err
}

// percent is the CPU use between two readings, in percent of one core; "-" for what was not there at the first.
func percent(before, after *runtime.CpuUsage) string {
	elapsed := after.GetTimestamp() - before.GetTimestamp()
	used := after.GetUsageCoreNanoSeconds().GetValue()
	if before == nil || elapsed <= 0 || used < before.GetUsageCoreNanoSeconds().GetValue() {
		return none
	}
	return fmt.Sprintf("%.1f%%", 100*float64(used-before.GetUsageCoreNanoSeconds().GetValue())/float64(elapsed))
}

// size is "-" for what is not known.
func size(v *runtime.UInt64Value) string {
	if v == nil {
		return none
	}
	return table.Size(v.GetValue())
}

func containerStats(ctx context.Context, c *client.Client, names []string, span time.Duration) (listing, error) {
	l := listing{header: []string{"CONTAINER", "NAME", "POD", "CPU", "MEMORY", "AVAILABLE", "SWAP", "DISK", "INODES"}}
	o, err := c.Objects(ctx)
	if err != nil {
		return l, err
	}
	var wanted []string
	for _, name := range names {
		x, err := o.Container(name)
		if err != nil {
			return l, err
		}
		wanted = append(wanted, x.GetId())
	}
	stats, before, err := twice(ctx, span, func() ([]*runtime.ContainerStats, error) {
		resp, err := c.Runtime.ListContainerStats(ctx, &runtime.ListContainerStatsRequest{})
		return chosen(resp.GetStats(), wanted, containerID), err
	}, containerID, (*runtime.ContainerStats).GetCpu)
	if err != nil {
		return l, err
	}
	pods := map[string]string{}
	for _, x := range o.Containers {
		pods[x.GetId()] = o.PodName(x.GetPodSandboxId())
	}
	if err := allThere(names, wanted, stats, containerID, "container %s is not running, so it uses nothing"); err != nil {
		return l, err
	}
	for _, s := range stats {
		id, m, w := containerID(s), s.GetMemory(), s.GetWritableLayer()
		inodes := none
		if w.GetInodesUsed() != nil {
			inodes = fmt.Sprint(w.GetInodesUsed().GetValue())
		}
		l.ids = append(l.ids, id)
		l.rows = append(l.rows, []string{
			client.ShortID(id), s.GetAttributes().GetMetadata().GetName(), orNone(pods[id]), percent(before[id], s.GetCpu()), size(m.GetWorkingSetBytes()),
			size(m.GetAvailableBytes()), size(s.GetSwap().GetSwapUsageBytes()), size(w.GetUsedBytes()), inodes,
		})
	}
	l.message = &runtime.ListContainerStatsResponse{Stats: stats}
	return l, nil
}

func podStats(ctx context.Context, c *client.Client, names []string, span time.Duration) (listing, error) {
	l := listing{header: []string{"POD", "NAME", "NAMESPACE", "CPU", "MEMORY", "AVAILABLE", "PROCESSES", "RECEIVED", "SENT", "CONTAINERS"}}
	o, err := c.Objects(ctx)
	if err != nil {
		return l, err
	}
	var wanted []string
	for _, name := range names {
		p, err := o.Pod(name)
		if err != nil {
			return l, err
		}
		wanted = append(wanted, p.GetId())
	}
	stats, before, err := twice(ctx, span, func() ([]*runtime.PodSandboxStats, error) {
		resp, err := c.Runtime.ListPodSandboxStats(ctx, &runtime.ListPodSandboxStatsRequest{})
		return chosen(resp.GetStats(), wanted, podID), err
	}, podID, func(s *runtime.PodSandboxStats) *runtime.CpuUsage { return s.GetLinux().GetCpu() })
	if err != nil {
		return l, err
	}
	if err := allThere(names, wanted, stats, podID, "pod %s is not ready, so its use is not counted"); err != nil {
		return l, err
	}
	for _, s := range stats {
		id, m, x := podID(s), s.GetAttributes().GetMetadata(), s.GetLinux()
		i := x.GetNetwork().GetDefaultInterface()
		l.ids = append(l.ids, id)
		l.rows = append(l.rows, []string{
			client.ShortID(id), m.GetName(), m.GetNamespace(), percent(before[id], x.GetCpu()), size(x.GetMemory().GetWorkingSetBytes()),
			size(x.GetMemory().GetAvailableBytes()), fmt.Sprint(x.GetProcess().GetProcessCount().GetValue()), size(i.GetRxBytes()), size(i.GetTxBytes()),
			fmt.Sprint(len(x.GetContainers())),
		})
	}
	l.message = &runtime.ListPodSandboxStatsResponse{Stats: stats}
	return l, nil
}

func containerID(s *runtime.ContainerStats) string { return s.GetAttributes().GetId() }

func podID(s *runtime.PodSandboxStats) string { return s.GetAttributes().GetId() }

// chosen keeps those of the wanted IDs; none wanted means all.
func chosen[T any](all []T, wanted []string, id func(T) string) []T {
	if len(wanted) == 0 {
		return all
	}
	return slices.DeleteFunc(all, func(s T) bool { return !slices.Contains(wanted, id(s)) })
}

// allThere makes an error of the first name whose object has no figures.
func allThere[T any](names, wanted []string, stats []T, id func(T) string, format string) error {
	for i, w := range wanted {
		if !slices.ContainsFunc(stats, func(s T) bool { return id(s) == w }) {
			return fmt.Errorf(format, names[i])
		}
	}
	return nil
}
