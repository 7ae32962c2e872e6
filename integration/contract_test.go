package integration

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// The rules about how calls behave.

func TestContractRule06VersionNamesTheRuntimeToAllClients(t *testing.T) {
	n := harness.Start(t)
	for _, version := range []string{"", "0.1.0", "v1"} { // the kubelet's and kruise-daemon's
		r, err := n.Daemon.Runtime.Version(harness.Context(t), &runtime.VersionRequest{Version: version})
		if err != nil {
			t.Fatal(err)
		}
		if r.RuntimeName != "cri-pouch" || r.Version == "" || r.RuntimeVersion == "" || r.RuntimeApiVersion != "v1" {
			t.Errorf("Version %q gives %v", version, r)
		}
	}
}

func TestContractRule07StopReturnsWithinItsGraceAndFiveSeconds(t *testing.T) {
	n := harness.Start(t)
	p := n.RunPod(t)
	for _, grace := range []int64{0, 2} {
		// It ignores the signal, and so do its children.
		c := p.Run(t, "deaf"+itoa(int(grace)), harness.Sh("trap '' TERM; sleep 1000 & sleep 1000 & echo up; while true; do sleep 0.1; done"))
		c.AwaitLog(t, "up")
		begin := time.Now()
		c.Stop(t, grace)
		if took := time.Since(begin); took > time.Duration(grace)*time.Second+harness.Patience(harness.LongEnough) {
			t.Errorf("a stop with a grace of %d s took %s", grace, took)
		}
		if s := c.Status(t); s.State != runtime.ContainerState_CONTAINER_EXITED || s.ExitCode != 137 {
			t.Errorf("after the stop the container is %v", s)
		}
	}
}

func TestContractRule10PullsWithoutSandboxMetadata(t *testing.T) {
	n := harness.Start(t)
	for name, pod := range map[string]*runtime.PodSandboxConfig{
		"none": nil, "empty": {}, "no metadata": {Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"a": "b"}},
	} {
		r, err := n.Daemon.Images.PullImage(harness.Context(t), &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: harness.Busybox}, SandboxConfig: pod})
		if err != nil || r.ImageRef == "" {
			t.Errorf("%s: %v, %v", name, r, err)
		}
		_, err = n.Daemon.Images.PullImage(harness.Context(t), &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: harness.Busybox + "-missing"}, SandboxConfig: pod})
		wantCode(t, err, codes.NotFound, "busybox:1-missing")
	}
}

func TestContractRule11ExecSyncEndsAndIsBounded(t *testing.T) {
	n := harness.Start(t)
	c := n.RunPod(t).Run(t, "app")
	exec := func(timeout int64, argv ...string) (*runtime.ExecSyncResponse, error) {
		return n.Daemon.Runtime.ExecSync(harness.Context(t), &runtime.ExecSyncRequest{ContainerId: c.ID, Cmd: argv, Timeout: timeout})
	}
	_, err := exec(1, "sh", "-c", "trap '' TERM; sleep 1000")
	wantCode(t, err, codes.DeadlineExceeded)
	pid := n.Daemon.PID()
	r, err := exec(30, "sh", "-c", "head -c 40000000 /dev/zero; head -c 40000000 /dev/zero >&2; exit 3")
	if err != nil && !strings.Contains(err.Error(), "16") {
		t.Errorf("80 MB of output: %v", err)
	}
	if got := len(r.GetStdout()) + len(r.GetStderr()); got > 16<<20 || err == nil && r.ExitCode != 3 {
		t.Errorf("%d bytes came back, exit code %d", got, r.GetExitCode())
	}
	if r, err := exec(10, "echo", "alive"); err != nil || string(r.Stdout) != "alive\n" || n.Daemon.PID() != pid || !n.Daemon.Running() {
		t.Errorf("after that: %v, %v", r, err)
	}
}

func TestContractRule12RuntimeConfigSaysWhoMakesCgroups(t *testing.T) {
	n := harness.Start(t)
	r, err := n.Daemon.Runtime.RuntimeConfig(harness.Context(t), &runtime.RuntimeConfigRequest{})
	if err != nil {
		t.Fatal(err)
	}
	want := runtime.CgroupDriver_CGROUPFS
	if n.Systemd {
		want = runtime.CgroupDriver_SYSTEMD
	}
	if r.Linux == nil || r.Linux.CgroupDriver != want {
		t.Errorf("RuntimeConfig gives %v, want %s", r, want)
	}
}

func TestContractRule13PodStatusesHaveNoTimestamp(t *testing.T) {
	n := harness.Start(t)
	p := n.RunPod(t)
	stream := subscribe(t, p)
	c := p.Run(t, "app")
	ask := func() {
		t.Helper()
		r, err := n.Daemon.Runtime.PodSandboxStatus(harness.Context(t), &runtime.PodSandboxStatusRequest{PodSandboxId: p.ID})
		if err != nil {
			t.Fatal(err)
		}
		if r.Timestamp != 0 || len(r.ContainersStatuses) != 0 {
			t.Errorf("timestamp is %d, with %d statuses of containers", r.Timestamp, len(r.ContainersStatuses))
		}
	}
	ask()
	c.Stop(t, 0)
	ask()
	for { // what the kubelet uses of events
		e, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if e.ContainerId == c.ID && e.ContainerEventType == runtime.ContainerEventType_CONTAINER_STOPPED_EVENT {
			if m := e.GetPodSandboxStatus().GetMetadata(); m.GetUid() != p.Config.Metadata.Uid || m.GetName() == "" || m.GetNamespace() == "" {
				t.Errorf("the event's sandbox is %v", m)
			}
			return
		}
	}
}
