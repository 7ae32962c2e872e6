package integration

import (
	"context"
	"fmt"
	"sync"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// subscribe follows CRI's events; it returns when the daemon has the subscription. The events until then are read.
func subscribe(t *testing.T, p *harness.Pod) runtime.RuntimeService_GetContainerEventsClient {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	stream, err := p.Node.Daemon.Runtime.GetContainerEvents(ctx, &runtime.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	first := make(chan *runtime.ContainerEventResponse, 1)
	go func() {
		if e, err := stream.Recv(); err == nil {
			first <- e
		}
	}()
	// The call returns before the daemon has it: containers are made until the first event comes.
	for i := 0; ; i++ {
		c := p.Create(t, fmt.Sprintf("probe%d", i))
		c.Remove(t)
		select {
		case e := <-first:
			if e.ContainerId == c.ID && e.ContainerEventType == runtime.ContainerEventType_CONTAINER_DELETED_EVENT {
				return stream
			}
			for { // up to the last probe's end
				e, err := stream.Recv()
				if err != nil {
					t.Fatal(err)
				}
				if e.ContainerId == c.ID && e.ContainerEventType == runtime.ContainerEventType_CONTAINER_DELETED_EVENT {
					return stream
				}
			}
		default:
		}
	}
}

// A reader that reads nothing until all is over still gets every event of every container, each container's in order, with
// the statuses at that moment; also of containers that end at once.
func TestASlowReaderGetsEveryEventInOrder(t *testing.T) {
	n := harness.Start(t)
	const pods, rounds = 3, 12
	all := make([]*harness.Pod, pods)
	for i := range all {
		all[i] = n.RunPod(t)
	}
	n.Pull(t, harness.Busybox)
	stream := subscribe(t, all[0])

	var wg sync.WaitGroup
	var mu sync.Mutex
	lived := map[string]*harness.Pod{}
	for _, p := range all {
		wg.Go(func() {
			for i := range rounds {
				c := p.Create(t, fmt.Sprintf("app%d", i%2), version(uint32(i), harness.Busybox, "aaaa"), harness.Command([][]string{{"true"}, {"sleep", "1000"}}[i%2]...))
				c.Start(t)
				if i%2 == 0 {
					c.Ended(t)
				} else {
					c.Stop(t, 0)
				}
				c.Remove(t)
				mu.Lock()
				lived[c.ID] = p
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(lived) != pods*rounds {
		t.Fatalf("%d containers lived", len(lived))
	}
	order := []runtime.ContainerEventType{
		runtime.ContainerEventType_CONTAINER_CREATED_EVENT, runtime.ContainerEventType_CONTAINER_STARTED_EVENT,
		runtime.ContainerEventType_CONTAINER_STOPPED_EVENT, runtime.ContainerEventType_CONTAINER_DELETED_EVENT,
	}
	states := map[runtime.ContainerEventType]runtime.ContainerState{
		order[0]: runtime.ContainerState_CONTAINER_CREATED, order[1]: runtime.ContainerState_CONTAINER_RUNNING, order[2]: runtime.ContainerState_CONTAINER_EXITED,
	}
	step := map[string]int{}
	var last int64
	for range 4 * pods * rounds {
		e, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		p := lived[e.ContainerId]
		if p == nil {
			t.Fatalf("an event of a container that did not live: %v", e)
		}
		if at := step[e.ContainerId]; at > 3 || e.ContainerEventType != order[at] {
			t.Fatalf("event %d of container %s is %s", at, e.ContainerId, e.ContainerEventType)
		}
		step[e.ContainerId]++
		if s := e.PodSandboxStatus; s.GetId() != p.ID || s.GetMetadata().GetUid() != p.Config.Metadata.Uid || s.GetNetwork().GetIp() == "" ||
			s.GetState() != runtime.PodSandboxState_SANDBOX_READY {
			t.Errorf("the sandbox's status is %v", s)
		}
		if e.CreatedAt < last {
			t.Errorf("an event of %d comes after one of %d", e.CreatedAt, last)
		}
		last = e.CreatedAt
		var own *runtime.ContainerStatus
		for _, s := range e.ContainersStatuses {
			if s.Id == e.ContainerId {
				own = s
			}
		}
		if want, there := states[e.ContainerEventType]; (own != nil) != there || there && own.State != want {
			t.Errorf("with %s the container's status is %v", e.ContainerEventType, own)
		}
	}
}

// A sandbox has the events of a container of its ID, around those of its containers.
func TestASandboxHasEventsToo(t *testing.T) {
	n := harness.Start(t)
	stream := subscribe(t, n.RunPod(t))
	type step struct {
		id    string
		kind  runtime.ContainerEventType
		state runtime.PodSandboxState
	}
	p := n.RunPod(t)
	c := p.Run(t, "app")
	for range 2 { // what is repeated is not told again
		p.Remove(t)
	}
	const ready, notReady = runtime.PodSandboxState_SANDBOX_READY, runtime.PodSandboxState_SANDBOX_NOTREADY
	for _, want := range []step{
		{p.ID, runtime.ContainerEventType_CONTAINER_CREATED_EVENT, ready},
		{p.ID, runtime.ContainerEventType_CONTAINER_STARTED_EVENT, ready},
		{c.ID, runtime.ContainerEventType_CONTAINER_CREATED_EVENT, ready},
		{c.ID, runtime.ContainerEventType_CONTAINER_STARTED_EVENT, ready},
		{c.ID, runtime.ContainerEventType_CONTAINER_STOPPED_EVENT, ready},
		{p.ID, runtime.ContainerEventType_CONTAINER_STOPPED_EVENT, notReady},
		{c.ID, runtime.ContainerEventType_CONTAINER_DELETED_EVENT, notReady},
		{p.ID, runtime.ContainerEventType_CONTAINER_DELETED_EVENT, notReady},
	} {
		e, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if got := (step{e.ContainerId, e.ContainerEventType, e.PodSandboxStatus.GetState()}); got != want {
			t.Fatalf("the event is %v, want %v", got, want)
		}
		if s := e.PodSandboxStatus; s.GetId() != p.ID || s.GetMetadata().GetUid() != p.Config.Metadata.Uid {
			t.Errorf("with %s of %s the sandbox's status is %v", e.ContainerEventType, e.ContainerId, s)
		}
	}
	// The next event is of another sandbox.
	next := n.RunPod(t)
	if e, err := stream.Recv(); err != nil || e.ContainerId != next.ID {
		t.Errorf("after the end of sandbox and container: %v, %v", e, err)
	}
}
