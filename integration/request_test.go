package integration

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// atOnce makes eight identical calls at the same time and fails the test unless all give the same ID.
func atOnce(t *testing.T, call func() (string, error)) string {
	t.Helper()
	ids := make([]string, 8)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			id, err := call()
			if err != nil {
				t.Errorf("call %d: %v", i, err)
			}
			ids[i] = id
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] || id == "" {
			t.Fatalf("the calls give %q", ids)
		}
	}
	return ids[0]
}

func TestIdenticalCreatesAreOne(t *testing.T) {
	n := harness.Start(t)
	n.Pull(t, harness.Busybox)
	ctx := harness.Context(t)
	config := n.PodConfig(t)
	p := &harness.Pod{Config: config, Node: n}
	p.ID = atOnce(t, func() (string, error) {
		r, err := n.Daemon.Runtime.RunPodSandbox(ctx, &runtime.RunPodSandboxRequest{Config: config})
		return r.GetPodSandboxId(), err
	})
	t.Cleanup(func() { p.Remove(t) })
	if got := listPods(t, n); len(got) != 1 {
		t.Errorf("%d sandboxes are listed", len(got))
	}
	c := p.ContainerConfig("app")
	id := atOnce(t, func() (string, error) { return p.TryCreate(ctx, c) })
	if again, err := p.TryCreate(ctx, c); err != nil || again != id {
		t.Errorf("the same request later gives %q, %v", again, err)
	}
	// The termination log's path is random in each of the kubelet's tries.
	(&harness.Container{ID: id, Config: c, Pod: p}).Start(t)
	if again, err := p.TryCreate(ctx, c); err == nil {
		t.Errorf("the same name once more, when it runs already, gives %q", again)
	} else if code := status.Code(err); code != codes.AlreadyExists {
		t.Errorf("the same name once more, when it runs already: %v", err)
	}
	other := proto.Clone(config).(*runtime.PodSandboxConfig)
	other.Hostname = "another"
	if _, err := n.Daemon.Runtime.RunPodSandbox(ctx, &runtime.RunPodSandboxRequest{Config: other}); status.Code(err) != codes.AlreadyExists {
		t.Errorf("another sandbox of the same name: %v", err)
	}
}

// The kubelet gives up after its time limit and asks again: the work that went on meanwhile is what it gets.
func TestRetryAfterAClientsTimeout(t *testing.T) {
	n := harness.Start(t, harness.Failpoints(t))
	n.Pull(t, harness.Busybox)
	n.TerminateDaemon(t)
	dir := t.TempDir()
	pinned, prepared := filepath.Join(dir, "pinned"), filepath.Join(dir, "prepared")
	n.StartDaemon(t, "CRI_POUCH_FAILPOINTS=network.pinned=hold:"+pinned+",container.prepared=hold:"+prepared)
	goOn := func(held string) { // when it has come so far
		t.Helper()
		harness.Eventually(t, "the work has come to "+filepath.Base(held), func() bool { _, err := os.Stat(held); return err == nil })
		if err := os.Remove(held); err != nil {
			t.Fatal(err)
		}
	}
	config := n.PodConfig(t)
	short := func(call func(ctx context.Context) error) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := call(ctx); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("the impatient call gives %v", err)
		}
	}
	run := func(ctx context.Context) error {
		_, err := n.Daemon.Runtime.RunPodSandbox(ctx, &runtime.RunPodSandboxRequest{Config: config})
		return err
	}
	short(run)
	short(run)
	if got := listPods(t, n); len(got) != 0 {
		t.Errorf("a sandbox that nobody was told of is listed: %v", got)
	}
	goOn(pinned)
	p := n.RunPodConfig(t, config)
	c := p.ContainerConfig("app")
	create := func(ctx context.Context) error {
		_, err := p.TryCreate(ctx, c)
		return err
	}
	short(create)
	goOn(prepared)
	id, err := p.TryCreate(harness.Context(t), c)
	if err != nil {
		t.Fatal(err)
	}
	(&harness.Container{ID: id, Config: c, Pod: p}).Start(t)
	if got := listContainers(t, n, nil); len(got) != 1 {
		t.Errorf("%d containers are listed", len(got))
	}
}

func TestListsAndTheirFilters(t *testing.T) {
	n := harness.Start(t)
	p, q := n.RunPod(t, func(c *runtime.PodSandboxConfig) { c.Labels["tier"] = "front" }), n.RunPod(t)
	a := p.Run(t, "a", func(c *runtime.ContainerConfig) { c.Labels = map[string]string{"app": "shop", "part": "a"} })
	b := p.Run(t, "b", func(c *runtime.ContainerConfig) { c.Labels = map[string]string{"app": "shop", "part": "b"} })
	c := q.Create(t, "c")
	b.Stop(t, 0)
	state := func(s runtime.ContainerState) *runtime.ContainerStateValue {
		return &runtime.ContainerStateValue{State: s}
	}
	for name, x := range map[string]struct {
		filter *runtime.ContainerFilter
		want   []string
	}{
		"none":          {nil, []string{a.ID, b.ID, c.ID}},
		"empty":         {&runtime.ContainerFilter{}, []string{a.ID, b.ID, c.ID}},
		"id":            {&runtime.ContainerFilter{Id: a.ID}, []string{a.ID}},
		"unknown id":    {&runtime.ContainerFilter{Id: "unknown"}, nil},
		"sandbox":       {&runtime.ContainerFilter{PodSandboxId: q.ID}, []string{c.ID}},
		"running":       {&runtime.ContainerFilter{State: state(runtime.ContainerState_CONTAINER_RUNNING)}, []string{a.ID}},
		"exited":        {&runtime.ContainerFilter{State: state(runtime.ContainerState_CONTAINER_EXITED)}, []string{b.ID}},
		"created":       {&runtime.ContainerFilter{State: state(runtime.ContainerState_CONTAINER_CREATED)}, []string{c.ID}},
		"label":         {&runtime.ContainerFilter{LabelSelector: map[string]string{"app": "shop"}}, []string{a.ID, b.ID}},
		"two labels":    {&runtime.ContainerFilter{LabelSelector: map[string]string{"app": "shop", "part": "b"}}, []string{b.ID}},
		"all together":  {&runtime.ContainerFilter{Id: a.ID, PodSandboxId: p.ID, LabelSelector: map[string]string{"part": "a"}}, []string{a.ID}},
		"contradiction": {&runtime.ContainerFilter{Id: a.ID, PodSandboxId: q.ID}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got := map[string]bool{}
			for _, c := range listContainers(t, n, x.filter) {
				got[c.Id] = true
			}
			want := map[string]bool{}
			for _, id := range x.want {
				want[id] = true
			}
			if !maps.Equal(got, want) {
				t.Errorf("got %v, wanted %v", got, want)
			}
		})
	}
	ready := &runtime.PodSandboxStateValue{State: runtime.PodSandboxState_SANDBOX_READY}
	for name, x := range map[string]struct {
		filter *runtime.PodSandboxFilter
		want   int
	}{
		"none":  {nil, 2},
		"label": {&runtime.PodSandboxFilter{LabelSelector: map[string]string{"tier": "front"}}, 1},
		"ready": {&runtime.PodSandboxFilter{State: ready}, 2},
		"id":    {&runtime.PodSandboxFilter{Id: p.ID}, 1},
		"wrong": {&runtime.PodSandboxFilter{Id: "unknown"}, 0},
	} {
		r, err := n.Daemon.Runtime.ListPodSandbox(harness.Context(t), &runtime.ListPodSandboxRequest{Filter: x.filter})
		if err != nil || len(r.Items) != x.want {
			t.Errorf("sandboxes filtered by %s: %v, %v", name, r, err)
		}
	}
}

func TestLabelsAndAnnotationsComeBackByteForByte(t *testing.T) {
	n := harness.Start(t)
	odd := map[string]string{
		"empty": "", "unicode.test/ключ": "значение 🎁", "lines": "a\nb\r\n\tc", "json": `{"a":"b\u0000"}`, " spaces ": "  x  ",
		"long": strings.Repeat("x", 100_000), "nul": "a\x00b", "io.kubernetes.container.hash": "00ab12",
	}
	p := n.RunPod(t, func(c *runtime.PodSandboxConfig) {
		c.Annotations = odd
		maps.Copy(c.Labels, map[string]string{"app": "Ü"})
	})
	c := p.Create(t, "app", func(c *runtime.ContainerConfig) { c.Annotations, c.Labels = odd, map[string]string{"app": "Ü"} })
	check := func(when string) {
		t.Helper()
		for what, got := range map[string]map[string]string{
			"sandbox status": p.Status(t).Annotations, "container status": c.Status(t).Annotations,
			"sandbox list": listPods(t, n)[0].Annotations, "container list": listContainers(t, n, nil)[0].Annotations,
		} {
			if !maps.Equal(got, odd) {
				t.Errorf("%s: %s has other annotations", when, what)
			}
		}
		if got := p.Status(t).Labels; !maps.Equal(got, p.Config.Labels) {
			t.Errorf("%s: the sandbox's labels are %v", when, got)
		}
		if got := c.Status(t).Labels; !maps.Equal(got, c.Config.Labels) {
			t.Errorf("%s: the container's labels are %v", when, got)
		}
	}
	check("at once")
	n.KillDaemon(t)
	n.StartDaemon(t)
	check("after a restart")
}
