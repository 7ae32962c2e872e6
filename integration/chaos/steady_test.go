package chaos

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// steady is a container that counts for the whole time.
type steady struct {
	*harness.Container
	was *runtime.ContainerStatus
}

func newSteady(t *testing.T, n *harness.Node) *steady {
	p := &harness.Pod{Config: n.PodConfig(t), Node: n}
	must(t, "RunPodSandbox", func(ctx context.Context) error {
		r, err := n.Daemon.Runtime.RunPodSandbox(ctx, &runtime.RunPodSandboxRequest{Config: p.Config})
		p.ID = r.GetPodSandboxId()
		return err
	})
	s := &steady{Container: &harness.Container{Pod: p, Config: p.ContainerConfig("steady", harness.Sh("i=0; while :; do echo $i; i=$((i+1)); sleep 0.02; done"))}}
	must(t, "CreateContainer", func(ctx context.Context) (err error) {
		s.ID, err = p.TryCreate(ctx, s.Config)
		return err
	})
	must(t, "StartContainer", func(ctx context.Context) error {
		_, err := n.Daemon.Runtime.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: s.ID})
		return err
	})
	s.was = statusOf(t, s.Container)
	return s
}

// check insists that the container has run without a break, and every line is in its log.
func (s *steady) check(t *testing.T) {
	now := statusOf(t, s.Container)
	if now.State != runtime.ContainerState_CONTAINER_RUNNING || now.StartedAt != s.was.StartedAt {
		t.Errorf("the container that counts is %v, was %v", now, s.was)
	}
	s.Stop(t, 0)
	counted := strings.Fields(s.LogText(t))
	for i, word := range counted {
		if word != strconv.Itoa(i) {
			t.Errorf("line %d of the container that counts is %q", i, word)
			break
		}
	}
	t.Logf("%d lines were counted", len(counted))
	s.Pod.Remove(t)
}

// checkJournal insists that the journal tells each step of the pod's containers once, and in order.
func (p *pod) checkJournal(t *testing.T, attempts uint32) {
	told := map[uint32][]string{}
	must(t, "Events", func(ctx context.Context) error {
		clear(told)
		stream, err := p.Node.Daemon.Pouch.Events(ctx, &pouchv1.EventsRequest{Pod: p.Config.Metadata.Uid})
		for err == nil {
			var m *pouchv1.EventsResponse
			if m, err = stream.Recv(); err == nil && m.Event.ContainerId != "" {
				told[m.Event.Attempt] = append(told[m.Event.Attempt], m.Event.Kind)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	})
	if len(told) != int(attempts) {
		t.Errorf("the journal tells of the attempts %v, there were %d", slices.Sorted(maps.Keys(told)), attempts)
	}
	for attempt, kinds := range told {
		kinds = slices.DeleteFunc(slices.Clone(kinds), func(k string) bool {
			return slices.Contains([]string{"upgraded", "restarted", "upgrade-failed", "hook"}, k) // what comes with a step
		})
		if story := strings.Join(kinds, " "); story != "created started ended removed" && story != "created start-failed removed" {
			t.Errorf("of attempt %d in pod %s the journal tells %q", attempt, p.Config.Metadata.Name, told[attempt])
		}
	}
}
