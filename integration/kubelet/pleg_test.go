package kubelet

import (
	"regexp"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/cri-pouch/cri-pouch/integration/kubelet/cluster"
)

// With EventedPLEG the kubelet learns of what happens to containers from GetContainerEvents. A runtime that fills in more
// than it uses there (the timestamp of a sandbox's status) leaves pods with init containers in them for ever.
func TestKubeletWithEventedPLEG(t *testing.T) {
	n := start(t)
	usual := n.Kubelet
	if err := n.RestartKubelet(limited(t), cluster.KubeletOptions{EventedPLEG: true, Set: usual.Set}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.RestartKubelet(limited(t), usual); err != nil {
			t.Error(err)
		}
	})
	t.Run("init containers and a restart", func(t *testing.T) {
		app := sh("app", app1, "test -e /notes/tried || { touch /notes/tried; exit 3; }; cat /notes/order; sleep infinity")
		p := n.run(t, podOf("evented", []corev1.Container{app}, func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "notes"}}
			p.Spec.InitContainers = []corev1.Container{sh("first", app1, "echo first >> /notes/order"), sh("second", app1, "echo second >> /notes/order")}
			for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
				list[0].VolumeMounts = []corev1.VolumeMount{{Name: "notes", MountPath: "/notes"}}
				list[len(list)-1].VolumeMounts = list[0].VolumeMounts
			}
		}))
		now := p.await(t, "the container is restarted", func(now *corev1.Pod) bool {
			s := statusOf(now, "app")
			return s.RestartCount == 1 && s.State.Running != nil
		})
		for _, name := range []string{"first", "second"} {
			if s := statusOf(now, name); s.RestartCount != 0 || s.State.Terminated == nil || s.State.Terminated.ExitCode != 0 {
				t.Errorf("%s: %+v", name, s)
			}
		}
		p.awaitLog(t, "app", "first\nsecond\n")
	})
	t.Run("an edited image rebuilds one container", func(t *testing.T) {
		p := n.run(t, upgradePod())
		p.inside(t, "web", "echo kept > /data/note")
		m := measure(t, p.get(t).Status.PodIP)
		for _, c := range []struct{ image, version string }{{app2, "2"}, {app1, "1"}, {app2, "2"}} {
			before := p.look(t, "web")
			p.setImage(t, "web", c.image)
			measured(t, "outage of an edited container's port under EventedPLEG: %.1f ms", ms(m.outage(t, c.version)))
			p.awaitImage(t, "web", c.image)
			before.sameBut(t, p.look(t, "web"))
		}
		if got := p.inside(t, "web", "cat /data/note"); got != "kept" {
			t.Errorf("the new container finds %q", got)
		}
	})
	t.Run("a container that ends is seen at once", func(t *testing.T) {
		p := n.create(t, podOf("ends", []corev1.Container{sh("app", app1, "exit 4")}, func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever }))
		now := p.await(t, "the pod has failed", func(now *corev1.Pod) bool { return now.Status.Phase == corev1.PodFailed })
		if s := statusOf(now, "app").State.Terminated; s == nil || s.ExitCode != 4 {
			t.Errorf("ended: %+v", s)
		}
	})
	t.Run("the daemon is killed", func(t *testing.T) {
		p := n.run(t, upgradePod())
		before := p.look(t, "web")
		n.killDaemon(t)
		n.startDaemon(t)
		n.crash(t, p, "agent") // the kubelet listens again
		p.await(t, "the other container is restarted", func(now *corev1.Pod) bool {
			s := statusOf(now, "agent")
			return s.RestartCount == 1 && s.State.Running != nil
		})
		p.setImage(t, "web", app2)
		p.awaitImage(t, "web", app2)
		after := p.look(t, "web")
		before.others, after.others = nil, nil
		before.sameBut(t, after)
	})
	metrics, err := n.Client.CoreV1().RESTClient().Get().Resource("nodes").Name(n.Node()).SubResource("proxy").Suffix("metrics").DoRaw(limited(t))
	if err != nil {
		t.Fatal(err)
	}
	if connected := regexp.MustCompile(`(?m)^kubelet_evented_pleg_connection_success_count [1-9]`); !connected.Match(metrics) {
		t.Error("the kubelet never listened to the runtime's events")
	}
}
