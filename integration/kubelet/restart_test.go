package kubelet

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// killDaemon ends cri-pouch by SIGKILL.
func (n *node) killDaemon(t testing.TB) {
	t.Helper()
	if err := n.Lab.Daemon.Kill(limited(t)); err != nil {
		t.Fatal(err)
	}
}

// startDaemon starts cri-pouch again.
func (n *node) startDaemon(t testing.TB) {
	t.Helper()
	if err := n.Lab.Daemon.Start(limited(t)); err != nil {
		t.Fatal(err)
	}
}

// same fails the test where an edit or a restart of the pod is to be seen.
func (l looks) same(t testing.TB, after looks) {
	t.Helper()
	l.others[l.edited.Name], after.others[after.edited.Name] = l.edited, after.edited
	l.edited, after.edited = corev1.ContainerStatus{RestartCount: -1}, corev1.ContainerStatus{ContainerID: "none"}
	l.sameBut(t, after)
}

func TestDaemonKilledWhilePodsRun(t *testing.T) {
	n := start(t)
	p := n.run(t, upgradePod())
	p.inside(t, "web", "echo kept > /data/note")
	before := p.look(t, "web")
	awaitServing(t, before.ip)
	n.killDaemon(t)
	if version, err := ask(before.ip); err != nil || version != "1" {
		t.Errorf("without a daemon the pod answers %q (%v)", version, err)
	}
	n.startDaemon(t)
	n.awaitStatusSince(t, time.Now())
	before.same(t, p.look(t, "web"))

	before = p.look(t, "web")
	p.setImage(t, "web", app2)
	p.awaitImage(t, "web", app2)
	before.sameBut(t, p.look(t, "web"))
	if got := p.inside(t, "web", "cat /data/note /version"); got != "kept\n2" {
		t.Errorf("the new container finds %q", got)
	}
}

// awaitStatusSince waits until the kubelet says that the node is Ready, at or after a time.
func (n *node) awaitStatusSince(t testing.TB, since time.Time) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := n.AwaitReady(ctx, since); err != nil {
		t.Fatal(err)
	}
}

func TestDaemonKilledWhilePodsComeUp(t *testing.T) {
	n := start(t)
	for _, delay := range []time.Duration{100, 400} {
		t.Run((delay * time.Millisecond).String(), func(t *testing.T) {
			var pods []*pod
			for range 3 {
				pods = append(pods, n.create(t, upgradePod()))
			}
			time.Sleep(delay * time.Millisecond) // into the middle of what the kubelet asks for
			n.killDaemon(t)
			n.startDaemon(t)
			for _, p := range pods {
				p.awaitReady(t)
				p.neverEnded(t)
			}
			before := pods[0].look(t, "web")
			pods[0].setImage(t, "web", app2)
			pods[0].awaitImage(t, "web", app2)
			before.sameBut(t, pods[0].look(t, "web"))
		})
	}
}

// neverEnded fails the test where a container of the pod has run and does no more. The kubelet counts one that was created
// and could not be started, its call being cut off, as a restart: that is not looked at.
func (p *pod) neverEnded(t testing.TB) {
	t.Helper()
	r, err := p.n.Lab.Daemon.Runtime.ListContainers(limited(t), &runtime.ListContainersRequest{Filter: &runtime.ContainerFilter{
		LabelSelector: map[string]string{"io.kubernetes.pod.uid": string(p.uid)},
		State:         &runtime.ContainerStateValue{State: runtime.ContainerState_CONTAINER_EXITED},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range r.Containers {
		s, err := p.n.Lab.Daemon.Runtime.ContainerStatus(limited(t), &runtime.ContainerStatusRequest{ContainerId: c.Id})
		if err != nil || s.Status.StartedAt != 0 {
			t.Errorf("%s: container %s ran and has ended: %v (%v)", p.name, c.Metadata.Name, s.GetStatus(), err)
		}
	}
}

func TestDaemonKilledWhilePodsAreUpgraded(t *testing.T) {
	n := start(t)
	p := n.run(t, upgradePod())
	p.inside(t, "web", "echo kept > /data/note")
	image := app2
	for _, delay := range []time.Duration{20, 60, 100, 150, 250} {
		t.Run((delay * time.Millisecond).String(), func(t *testing.T) {
			before := p.look(t, "web")
			p.setImage(t, "web", image)
			time.Sleep(delay * time.Millisecond) // into the middle of what the kubelet asks for
			n.killDaemon(t)
			n.startDaemon(t)
			p.awaitImage(t, "web", image)
			after := p.look(t, "web")
			after.edited.RestartCount = before.edited.RestartCount + 1 // a try that the kill cut off may count
			before.sameBut(t, after)
			if got := p.inside(t, "web", "cat /data/note"); got != "kept" {
				t.Errorf("the new container finds %q", got)
			}
		})
		if image == app2 {
			image = app1
		} else {
			image = app2
		}
	}
}
