package kubelet

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// looks is what an edit of one container's image must not change about a pod, and what it must.
type looks struct {
	uid, ip, sandbox, node string
	others                 map[string]corev1.ContainerStatus // by name
	edited                 corev1.ContainerStatus
}

// look takes the looks of a pod, one of whose containers is edited.
func (p *pod) look(t testing.TB, edited string) looks {
	t.Helper()
	now := p.get(t)
	l := looks{string(now.UID), now.Status.PodIP, p.sandbox(t), now.Spec.NodeName, map[string]corev1.ContainerStatus{}, statusOf(now, edited)}
	for _, s := range slices.Concat(now.Status.InitContainerStatuses, now.Status.ContainerStatuses) {
		if s.Name != edited {
			l.others[s.Name] = s
		}
	}
	return l
}

// awaitImage waits until a container runs an image, as the pod's status has it, and is ready.
func (p *pod) awaitImage(t testing.TB, container, image string) *corev1.Pod {
	t.Helper()
	return p.await(t, container+" runs "+image, func(now *corev1.Pod) bool {
		s := statusOf(now, container)
		return s.Image == image && s.State.Running != nil && s.Ready
	})
}

// sameBut fails the test for each thing that an edit has changed and must not have, or has not and must have.
func (l looks) sameBut(t testing.TB, after looks) {
	t.Helper()
	if l.uid != after.uid || l.ip != after.ip || l.sandbox != after.sandbox {
		t.Errorf("the pod was UID %s, IP %s, sandbox %s; is UID %s, IP %s, sandbox %s", l.uid, l.ip, l.sandbox, after.uid, after.ip, after.sandbox)
	}
	for name, before := range l.others {
		now := after.others[name]
		if now.ContainerID != before.ContainerID || now.RestartCount != before.RestartCount ||
			started(now) != started(before) {
			t.Errorf("container %s was %s, started at %s, restarts %d; is %s, %s, %d", name, before.ContainerID, started(before), before.RestartCount,
				now.ContainerID, started(now), now.RestartCount)
		}
	}
	if l.edited.ContainerID == after.edited.ContainerID {
		t.Errorf("container %s was not rebuilt: %s", l.edited.Name, l.edited.ContainerID)
	}
	if after.edited.RestartCount != l.edited.RestartCount+1 {
		t.Errorf("restarts of %s: %d, then %d", l.edited.Name, l.edited.RestartCount, after.edited.RestartCount)
	}
}

func started(s corev1.ContainerStatus) time.Time {
	switch {
	case s.State.Running != nil:
		return s.State.Running.StartedAt.Time
	case s.State.Terminated != nil:
		return s.State.Terminated.StartedAt.Time
	}
	return time.Time{}
}

// upgradePod serves from web beside a container that must not notice, with data in a volume.
func upgradePod(edits ...func(*corev1.Pod)) *corev1.Pod {
	web := sh("web", app1, `echo "version $(cat /version)"; `+serving)
	web.VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	p := podOf("upgrade", []corev1.Container{web, sh("agent", app1, "sleep infinity")}, edits...)
	p.Spec.Volumes = []corev1.Volume{{Name: "data"}}
	return p
}

// This one, the next and the twenty edits run alone: they measure.
func TestEditedImageRebuildsOneContainer(t *testing.T) {
	n := start(t)
	p := n.run(t, upgradePod())
	p.inside(t, "web", "echo kept > /data/note")
	p.awaitLog(t, "web", "version 1")
	before := p.look(t, "web")
	m := measure(t, before.ip)
	p.setImage(t, "web", app2)
	measured(t, "outage of an edited container's port: %.1f ms (the first edit to this image pulls it)", ms(m.outage(t, "2")))
	p.awaitImage(t, "web", app2)
	after := p.look(t, "web")
	before.sameBut(t, after)
	if before.edited.ImageID == after.edited.ImageID {
		t.Errorf("imageID stays %s", after.edited.ImageID)
	}
	if got := p.inside(t, "web", "cat /data/note /version"); got != "kept\n2" {
		t.Errorf("the new container finds %q", got)
	}
	if got := p.log(t, "web", true); got != "version 1\n" {
		t.Errorf("the old container's log: %q", got)
	}
	p.awaitLog(t, "web", "version 2")
}

func TestEditedImageOfASidecarRebuildsOnlyIt(t *testing.T) {
	n := start(t)
	always := corev1.ContainerRestartPolicyAlways
	p := n.run(t, upgradePod(func(p *corev1.Pod) {
		side := p.Spec.Containers[0]
		side.RestartPolicy = &always
		p.Spec.InitContainers = []corev1.Container{sh("prepare", app1, "true"), side}
		p.Spec.Containers = p.Spec.Containers[1:]
	}))
	before := p.look(t, "web")
	m := measure(t, before.ip)
	p.patchImage(t, "initContainers", "web", app2)
	measured(t, "outage of an edited sidecar's port: %.1f ms", ms(m.outage(t, "2")))
	p.awaitImage(t, "web", app2)
	before.sameBut(t, p.look(t, "web"))
}

func TestStatusNamesTheTagThatTheContainerWasAskedFor(t *testing.T) {
	t.Parallel()
	n := start(t)
	p := n.run(t, upgradePod())
	before := p.look(t, "web")
	p.setImage(t, "web", app1Again)
	now := p.awaitImage(t, "web", app1Again)
	before.sameBut(t, p.look(t, "web"))
	if s := statusOf(now, "web"); s.ImageID != before.edited.ImageID {
		t.Errorf("imageID of the second tag: %s, of the first: %s", s.ImageID, before.edited.ImageID)
	}
	if s := statusOf(now, "agent"); s.Image != app1 {
		t.Errorf("the other container's image became %s", s.Image)
	}
}

func TestTwentyEditsInARow(t *testing.T) {
	n := start(t)
	p := n.run(t, upgradePod())
	m := measure(t, p.get(t).Status.PodIP)
	var outages []time.Duration
	for i := range 20 {
		before := p.look(t, "web")
		image, version := app2, "2"
		if i%2 == 1 {
			image, version = app1, "1"
		}
		p.setImage(t, "web", image)
		outages = append(outages, m.outage(t, version))
		p.awaitImage(t, "web", image)
		before.sameBut(t, p.look(t, "web"))
	}
	slices.Sort(outages)
	measured(t, "outage of the port over 20 edits, image present: %.1f ms at best, median %.1f ms, %.1f ms at worst; the kubelet's back-off held up %d",
		ms(outages[0]), ms(outages[len(outages)/2]), ms(outages[len(outages)-1]), p.backOffs(t))
}

// backOffs is how often the kubelet has said that it waits before it starts a container.
func (p *pod) backOffs(t testing.TB) int32 {
	t.Helper()
	events, err := p.n.Client.CoreV1().Events(p.namespace).List(limited(t), metav1.ListOptions{FieldSelector: "reason=BackOff,involvedObject.name=" + p.name})
	if err != nil {
		t.Fatal(err)
	}
	var total int32
	for _, e := range events.Items {
		total += max(1, e.Count)
	}
	return total
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
