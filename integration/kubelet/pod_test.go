package kubelet

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestPodOfTwoContainersBecomesReady(t *testing.T) {
	t.Parallel()
	n := start(t)
	p := n.run(t, podOf("two", []corev1.Container{
		sh("web", app1, "echo serving; httpd -f -p 8080 -h /"),
		sh("agent", app1, "echo watching; sleep infinity"),
	}))
	now := p.get(t)
	if now.Status.PodIP == "" {
		t.Errorf("pod IP %q is not of the pods' network", now.Status.PodIP)
	}
	for container, want := range map[string]string{"web": "serving\n", "agent": "watching\n"} {
		p.awaitLog(t, container, want)
		if got := p.log(t, container, false); got != want {
			t.Errorf("log of %s: %q, want %q", container, got, want)
		}
	}
}
