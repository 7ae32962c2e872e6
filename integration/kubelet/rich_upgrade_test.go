package kubelet

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// The container with an init is replaced like any other; the rich one beside it does not notice. It runs alone: it measures.
func TestEditedImageOfARichContainerRebuildsOnlyIt(t *testing.T) {
	n := startRich(t)
	web := sh("web", systemd1, richApp)
	web.VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	p := n.run(t, podOf("rich-upgrade", []corev1.Container{web, probe("agent", dumb1, "wait"), sh("plain", app1, "sleep infinity")},
		richAnnotations("mode.web", "systemd", "mode.agent", "dumb-init"), func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "data"}}
		}))
	id := p.inside(t, "web", "echo kept >/data/note; echo kept >/srv/data/note; echo lost >/etc/note; cat /etc/machine-id")
	before := p.look(t, "web")
	m := measure(t, before.ip)
	p.setImage(t, "web", systemd2)
	measured(t, "outage of an edited systemd container's port: %.0f ms (shutdown and boot)", ms(m.outage(t, "2")))
	p.awaitImage(t, "web", systemd2)
	before.sameBut(t, p.look(t, "web"))
	if got := p.inside(t, "web", "cat /data/note /srv/data/note /version; ls /etc/note 2>/dev/null | wc -l; cat /etc/machine-id"); got != "kept\nkept\n2\n0\n"+id {
		t.Errorf("the new container finds %q", got)
	}
	if s := statusOf(p.get(t), "web").LastTerminationState.Terminated; s == nil || s.ExitCode != 7 || s.Message != "ended by TERM\n" {
		t.Errorf("the old container's end: %+v", s)
	}
	p.awaitLog(t, "web", "version 2")
}
