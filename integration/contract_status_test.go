package integration

import (
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// The rules about what statuses say.

func TestContractRule04AnnotationsAndLabelsComeBackByteForByte(t *testing.T) {
	n := harness.Start(t)
	odd := map[string]string{
		"empty": "", "io.kubernetes.container.hash": "5d1c8b3e", "lines": "a\nb\r\n\tc ", "quotes": `"\"{}[]<>&'`, "unicode": "äé漢\u200b\U0001F600",
		"json": `{"a":[1,2,{"b":null}],"c":"\u00e4"}`, "upper/Case.key_x-1": "Mixed", "control": "\x01\x7f",
	}
	p := n.RunPod(t, func(c *runtime.PodSandboxConfig) { c.Labels, c.Annotations = odd, odd })
	c := p.Run(t, "app", func(c *runtime.ContainerConfig) { c.Labels, c.Annotations = odd, odd })
	same := func(what string, got map[string]string) {
		t.Helper()
		if len(got) != len(odd) {
			t.Errorf("%s: %q", what, got)
		}
		for k, v := range odd {
			if back, ok := got[k]; !ok || back != v {
				t.Errorf("%s: %q is %q, was %q", what, k, back, v)
			}
		}
	}
	restarted(t, n, func() {
		pod, container := p.Status(t), c.Status(t)
		same("sandbox labels", pod.Labels)
		same("sandbox annotations", pod.Annotations)
		same("container labels", container.Labels)
		same("container annotations", container.Annotations)
		listed := listContainers(t, n, &runtime.ContainerFilter{Id: c.ID})
		same("labels in the list", listed[0].Labels)
		same("annotations in the list", listed[0].Annotations)
	})
}

func TestContractRule05ASandboxStaysReadyWithoutRunningContainers(t *testing.T) {
	n := harness.Start(t)
	p := n.RunPod(t)
	host := n.RunPod(t, func(c *runtime.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions.Network = runtime.NamespaceMode_NODE
	})
	for _, pod := range []*harness.Pod{p, host} {
		pod.RunToEnd(t, "app", harness.Command("false"))
	}
	ip := p.IP(t)
	restarted(t, n, func() {
		s := p.Status(t)
		if s.State != runtime.PodSandboxState_SANDBOX_READY || ip == "" || s.GetNetwork().GetIp() != ip {
			t.Errorf("with its container dead the sandbox is %s, its IP %q", s.State, s.GetNetwork().GetIp())
		}
		if mode := s.GetLinux().GetNamespaces().GetOptions().GetNetwork(); mode != runtime.NamespaceMode_POD {
			t.Errorf("the network mode is %s", mode)
		}
		s = host.Status(t)
		if s.State != runtime.PodSandboxState_SANDBOX_READY || s.Network != nil {
			t.Errorf("on the host network the sandbox is %s, its network %v", s.State, s.Network)
		}
		if mode := s.GetLinux().GetNamespaces().GetOptions().GetNetwork(); mode != runtime.NamespaceMode_NODE {
			t.Errorf("the network mode is %s", mode)
		}
	})
}

func TestContractRule08StatusesAreCompleteAndCreationTimesGrow(t *testing.T) {
	n := harness.Start(t)
	p := n.RunPod(t)
	n.Pull(t, harness.Busybox)
	complete := func(c *harness.Container) *runtime.ContainerStatus {
		t.Helper()
		s := c.Status(t)
		if s.Id != c.ID || s.GetMetadata().GetName() == "" || s.CreatedAt == 0 || s.GetImage().GetImage() == "" || s.ImageRef == "" {
			t.Errorf("a field is missing: %v", s)
		}
		return s
	}
	const many = 8
	all := make([]*harness.Container, many)
	var wg sync.WaitGroup
	for i := range all {
		wg.Go(func() { all[i] = p.Create(t, "app"+itoa(i)) })
	}
	wg.Wait()
	created := map[int64]bool{}
	for _, c := range all {
		created[complete(c).CreatedAt] = true
	}
	if len(created) != many {
		t.Errorf("%d containers made at once have %d creation times", many, len(created))
	}
	n.KillDaemon(t)
	n.StartDaemon(t)
	next := complete(p.Create(t, "next"))
	precise := false
	for _, c := range all {
		if at := complete(c).CreatedAt; at >= next.CreatedAt {
			t.Errorf("one made before was created at %d, one made after at %d", at, next.CreatedAt)
		}
		c.Start(t)
		precise = precise || complete(c).StartedAt%1000 != 0
		c.Stop(t, 0)
		if s := complete(c); s.StartedAt < s.CreatedAt || s.FinishedAt < s.StartedAt {
			t.Errorf("created %d, started %d, finished %d", s.CreatedAt, s.StartedAt, s.FinishedAt)
		}
	}
	if !precise {
		t.Errorf("no start time of %d has nanoseconds", many)
	}
}

func TestContractRule09ReasonsAndMissingObjects(t *testing.T) {
	n := harness.Start(t)
	p := n.RunPod(t)
	for name, want := range map[string]struct {
		argv   []string
		code   int32
		reason string
	}{
		"completed": {[]string{"true"}, 0, "Completed"},
		"error":     {[]string{"false"}, 1, "Error"},
		"oom":       {[]string{"tail", "/dev/zero"}, 137, "OOMKilled"},
	} {
		c := p.Run(t, name, harness.Command(want.argv...), func(c *runtime.ContainerConfig) {
			c.Linux.Resources = &runtime.LinuxContainerResources{MemoryLimitInBytes: 24 << 20, MemorySwapLimitInBytes: 24 << 20}
		})
		if _, code := c.Ended(t); code != want.code || c.Status(t).Reason != want.reason {
			t.Errorf("%s: code %d, reason %s", name, code, c.Status(t).Reason)
		}
	}
	ctx, r := harness.Context(t), n.Daemon.Runtime
	for call, err := range map[string]error{
		"ContainerStatus":          second(r.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: "nowhere"})),
		"ContainerStats":           second(r.ContainerStats(ctx, &runtime.ContainerStatsRequest{ContainerId: "nowhere"})),
		"StartContainer":           second(r.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: "nowhere"})),
		"UpdateContainerResources": second(r.UpdateContainerResources(ctx, &runtime.UpdateContainerResourcesRequest{ContainerId: "nowhere", Linux: &runtime.LinuxContainerResources{}})),
		"ReopenContainerLog":       second(r.ReopenContainerLog(ctx, &runtime.ReopenContainerLogRequest{ContainerId: "nowhere"})),
		"ExecSync":                 second(r.ExecSync(ctx, &runtime.ExecSyncRequest{ContainerId: "nowhere", Cmd: []string{"true"}})),
		"PodSandboxStatus":         second(r.PodSandboxStatus(ctx, &runtime.PodSandboxStatusRequest{PodSandboxId: "nowhere"})),
		"CreateContainer":          second((&harness.Pod{ID: "nowhere", Config: p.Config, Node: n}).TryCreate(ctx, p.ContainerConfig("app"))),
	} {
		t.Run(call, func(t *testing.T) { wantCode(t, err, codes.NotFound, "nowhere") })
	}
	for call, err := range map[string]error{
		"StopContainer":    second(r.StopContainer(ctx, &runtime.StopContainerRequest{ContainerId: "nowhere"})),
		"RemoveContainer":  second(r.RemoveContainer(ctx, &runtime.RemoveContainerRequest{ContainerId: "nowhere"})),
		"StopPodSandbox":   second(r.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: "nowhere"})),
		"RemovePodSandbox": second(r.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: "nowhere"})),
	} {
		if err != nil {
			t.Errorf("%s of what is gone: %v", call, err)
		}
	}
}

// second leaves the error of a call.
func second[T any](_ T, err error) error { return err }
