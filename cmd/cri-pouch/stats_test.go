package main

import (
	"context"
	"strings"
	"testing"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// tick gives the time and the CPU time, in ns, of the next measurement: half a core is used.
func (f *fake) tick() (at int64, used uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.measured++
	return int64(f.measured) * int64(time.Second), uint64(f.measured) * 5e8
}

func value(v uint64) *runtime.UInt64Value { return &runtime.UInt64Value{Value: v} }

func (f *fake) ListContainerStats(context.Context, *runtime.ListContainerStatsRequest) (*runtime.ListContainerStatsResponse, error) {
	at, used := f.tick()
	return &runtime.ListContainerStatsResponse{Stats: []*runtime.ContainerStats{{
		Attributes:    &runtime.ContainerAttributes{Id: f.containers[1].Id, Metadata: f.containers[1].Metadata},
		Cpu:           &runtime.CpuUsage{Timestamp: at, UsageCoreNanoSeconds: value(used)},
		Memory:        &runtime.MemoryUsage{WorkingSetBytes: value(12_345_678), AvailableBytes: value(1000)},
		Swap:          &runtime.SwapUsage{SwapUsageBytes: value(0)},
		WritableLayer: &runtime.FilesystemUsage{UsedBytes: value(2000), InodesUsed: value(7)},
	}}}, nil
}

func (f *fake) ListPodSandboxStats(context.Context, *runtime.ListPodSandboxStatsRequest) (*runtime.ListPodSandboxStatsResponse, error) {
	at, used := f.tick()
	return &runtime.ListPodSandboxStatsResponse{Stats: []*runtime.PodSandboxStats{{
		Attributes: &runtime.PodSandboxAttributes{Id: f.pods[0].Id, Metadata: f.pods[0].Metadata},
		Linux: &runtime.LinuxPodSandboxStats{
			Cpu:     &runtime.CpuUsage{Timestamp: at, UsageCoreNanoSeconds: value(used)},
			Memory:  &runtime.MemoryUsage{WorkingSetBytes: value(12_345_678)},
			Process: &runtime.ProcessUsage{ProcessCount: value(3)},
			Network: &runtime.NetworkUsage{DefaultInterface: &runtime.NetworkInterfaceUsage{RxBytes: value(1), TxBytes: value(2000)}},
		},
	}}}, nil
}

func TestStats(t *testing.T) {
	containers := `
CONTAINER      NAME   POD   CPU     MEMORY   AVAILABLE   SWAP   DISK     INODES
c223456789ab   app    web   50.0%   12.3MB   1.00kB      0B     2.00kB   7
`
	pods := `
POD            NAME   NAMESPACE   CPU     MEMORY   AVAILABLE   PROCESSES   RECEIVED   SENT     CONTAINERS
a123456789ab   web    prod        50.0%   12.3MB   -           3           1B         2.00kB   0
`
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"containers":         {nil, containers},
		"one by name":        {[]string{"web/app"}, containers},
		"pods":               {[]string{"--pods"}, pods},
		"one pod by name":    {[]string{"--pods", "web"}, pods},
		"IDs for other uses": {[]string{"-q"}, "\nc2" + strings.Repeat("0123456789abcdef", 4)[2:] + "\n"},
	} {
		t.Run(name, func(t *testing.T) {
			r := command(t, node(), "", append([]string{"stats", "--span", "100ms"}, tc.args...)...)
			if want := strings.TrimPrefix(tc.want, "\n"); r.code != 0 || r.out != want {
				t.Errorf("code %d, %s\ngot\n%s\nwant\n%s", r.code, r.err, r.out, want)
			}
		})
	}
}

func TestStatsOfWhatUsesNothing(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		code int
		want string
	}{
		"not running":   {[]string{"side"}, 1, "side is not running"},
		"not ready":     {[]string{"--pods", "old"}, 1, "old is not ready"},
		"unknown":       {[]string{"nowhere"}, 1, "nowhere"},
		"no span":       {[]string{"--span", "0"}, 2, "--span"},
		"span too long": {[]string{"--span", "2h"}, 2, "--span"},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"stats"}, tc.args...)
			if tc.code == 1 {
				args = append(args, "--span", "100ms")
			}
			if r := command(t, node(), "", args...); r.code != tc.code || !strings.Contains(r.err, tc.want) {
				t.Errorf("code %d, %q", r.code, r.err)
			}
		})
	}
}
