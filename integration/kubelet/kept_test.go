package kubelet

import (
	"encoding/json"
	"testing"

	corev1 "k8s.io/api/core/v1"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/lab"
)

// What a container wrote into its image's VOLUMEs and into the paths that its pod persists is there in its successor:
// after an edit, after a crash, and for a sidecar; and it goes with the pod.
func TestVolumesOfTheImageAndPersistedPathsOutliveTheContainer(t *testing.T) {
	t.Parallel()
	n := start(t)
	web := sh("web", volumes1, serving)
	p := n.run(t, podOf("kept", []corev1.Container{web, sh("agent", app1, "sleep infinity")}, func(p *corev1.Pod) {
		p.Annotations = map[string]string{"upgrade.cri-pouch.io/persist": "/etc/app"}
	}))
	before := p.look(t, "web")
	if got := p.inside(t, "web", "cat /srv/data/seed /etc/app/seed"); got != "of image 1\nof image 1" {
		t.Errorf("seeded with %q", got)
	}
	p.inside(t, "web", "echo written > /srv/data/note; echo written > /etc/app/note; echo written > /lost")
	p.setImage(t, "web", volumes2)
	p.awaitImage(t, "web", volumes2)
	after := p.look(t, "web")
	before.sameBut(t, after)
	const all = "cat /srv/data/seed /etc/app/seed /srv/data/note /etc/app/note /version; ls /lost 2>/dev/null | wc -l"
	if got := p.inside(t, "web", all); got != "of image 1\nof image 1\nwritten\nwritten\n2\n0" {
		t.Errorf("after the edit: %q", got)
	}
	// After a crash it is the same: the container's end is not its own wish.
	n.crash(t, p, "web")
	p.await(t, "the container is restarted", func(now *corev1.Pod) bool {
		s := statusOf(now, "web")
		return s.RestartCount == after.edited.RestartCount+1 && s.State.Running != nil
	})
	if got := p.inside(t, "web", "cat /srv/data/note /etc/app/note"); got != "written\nwritten" {
		t.Errorf("after the crash: %q", got)
	}
}

// crash kills a container's first process from outside.
func (n *node) crash(t testing.TB, p *pod, container string) {
	t.Helper()
	r, err := n.Lab.Daemon.Runtime.ContainerStatus(limited(t), &runtime.ContainerStatusRequest{ContainerId: idOf(statusOf(p.get(t), container)), Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	var info struct {
		PID int `json:"pid"`
	}
	if err := json.Unmarshal([]byte(r.Info["info"]), &info); err != nil || info.PID < 2 {
		t.Fatalf("the runtime names no process of %s: %q (%v)", container, r.Info["info"], err)
	}
	if err := lab.KillProcess(limited(t), info.PID); err != nil {
		t.Fatal(err)
	}
}
