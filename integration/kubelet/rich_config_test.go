package kubelet

import (
	"encoding/json"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// annotate edits an annotation about rich containers.
func (p *pod) annotate(t testing.TB, key, value string) {
	t.Helper()
	p.annotateKey(t, "rich.cri-pouch.io/"+key, value)
}

// annotateKey edits an annotation of the pod, which goes without a value, and waits until the kubelet works on the pod as it is
// then: one that looks at the pod already would start a container by the pod as it was. Of annotations a kubelet does not say
// which it has seen, so the deadline, which counts as a change of the pod, is edited with it.
func (p *pod) annotateKey(t testing.TB, key, value string) {
	t.Helper()
	var to any
	if value != "" {
		to = value
	}
	deadline := int64(1_000_000)
	if old := p.get(t).Spec.ActiveDeadlineSeconds; old != nil {
		deadline = *old - 1 // it can only be shortened
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"annotations": map[string]any{key: to}},
		"spec":     map[string]any{"activeDeadlineSeconds": deadline},
	})
	if err != nil {
		t.Fatal(err)
	}
	edited, err := p.n.Client.CoreV1().Pods(p.namespace).Patch(limited(t), p.name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		t.Fatalf("annotate %s: %v", key, err)
	}
	p.await(t, "the kubelet has seen the annotation", func(now *corev1.Pod) bool { return now.Status.ObservedGeneration >= edited.Generation })
}

// A handler of the administrator's makes a container rich that says nothing of it, but not one that looks into it
// (kubectl debug --target).
func TestARuntimeClassMakesPodsRich(t *testing.T) {
	t.Parallel()
	n := startRich(t)
	api := n.Client.NodeV1().RuntimeClasses()
	class, err := api.Create(limited(t), &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{GenerateName: "machines-"}, Handler: "vm"}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := api.Delete(limited(t), class.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	p := n.run(t, podOf("class", []corev1.Container{probe("app", systemd1, "say=up", "wait"), sh("plain", app1, "sleep infinity")},
		richAnnotations("mode.plain", "none"), func(p *corev1.Pod) { p.Spec.RuntimeClassName = &class.Name }))
	p.awaitLog(t, "app", "up")
	for container, want := range map[string]string{"app": "systemd", "plain": "sleep"} {
		if got := p.inside(t, container, "cat /proc/1/comm"); got != want {
			t.Errorf("pid 1 of %s is %s, want %s", container, got, want)
		}
	}
	p.debug(t, corev1.EphemeralContainer{
		TargetContainerName:      "app",
		EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug", Image: app1, Command: []string{"sleep", "infinity"}},
	})
	if got := p.inside(t, "debug", "cat /proc/1/comm"); got != "systemd" {
		t.Errorf("pid 1 is %s for who looks into the container", got)
	}
}

// The units of a ConfigMap are enabled, as the kubelet mounts it: by links into a folder that it replaces. After an edit of the
// ConfigMap the next attempt has the new ones.
func TestUnitsOfAConfigMap(t *testing.T) {
	t.Parallel()
	n := startRich(t)
	const unit = "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"
	name := n.settings(t, map[string]string{"one.service": unit, "two.service": unit})
	app := sh("app", systemd1, richApp)
	app.VolumeMounts = []corev1.VolumeMount{{Name: "units", MountPath: "/etc/pouch/units"}}
	p := n.run(t, podOf("units", []corev1.Container{app}, richAnnotations("mode", "systemd", "units-from", "/etc/pouch/units"), func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "units", VolumeSource: corev1.VolumeSource{
			ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}}}}}
	}))
	p.awaitLog(t, "app", "version 1")
	states := func() string {
		return p.inside(t, "app", "systemctl is-system-running --wait; for u in one two three; do systemctl is-active $u; done; true")
	}
	if got := states(); got != "running\nactive\nactive\ninactive" {
		t.Errorf("the system and its units: %q", got)
	}
	patch, err := json.Marshal(map[string]any{"data": map[string]any{"two.service": nil, "three.service": unit}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Client.CoreV1().ConfigMaps(p.namespace).Patch(limited(t), name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	p.annotate(t, "restart", "no") // a change of the pod lets the kubelet look at its volumes at once
	p.inside(t, "app", "until test -e /etc/pouch/units/three.service; do sleep 0.05; done")
	p.restarts(t, "app")
	p.awaitLog(t, "app", "version 1")
	if got := states(); got != "running\nactive\ninactive\nactive" {
		t.Errorf("the system and its units after the edit: %q", got)
	}
}

// restarts ends the application of a container and waits until the kubelet has started it again.
func (p *pod) restarts(t testing.TB, container string) {
	t.Helper()
	before := statusOf(p.get(t), container)
	p.endApp(t, container)
	p.await(t, "the container runs again", func(now *corev1.Pod) bool {
		s := statusOf(now, container)
		return s.RestartCount > before.RestartCount && s.State.Running != nil
	})
}

// A crash loop inside looks like one outside: the pod fails with the last exit code, and its status counts the restarts.
func TestRestartsInsideAreToldOutside(t *testing.T) {
	t.Parallel()
	n := startRich(t)
	p := n.create(t, podOf("loop", []corev1.Container{probe("app", busybox1, "say=run", "exit=6")},
		richAnnotations("mode", "sbin-init", "restart", "on-failure", "restart-limit", "2", "restart-interval", "100ms"),
		func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever }))
	now := p.await(t, "the pod has failed", func(now *corev1.Pod) bool { return now.Status.Phase == corev1.PodFailed })
	if s := statusOf(now, "app").State.Terminated; s.ExitCode != 6 || s.Reason != "Error" || !strings.Contains(s.Message, "2 times") {
		t.Errorf("the status: %+v", s)
	}
	if got := p.log(t, "app", false); got != "run\nrun\nrun\n" {
		t.Errorf("log: %q", got)
	}
}

// An annotation is edited while the pod runs: it counts for the container's next attempt, and for no other container.
func TestAnEditedAnnotationIsInForceForTheNextAttempt(t *testing.T) {
	t.Parallel()
	n := startRich(t)
	p := n.run(t, podOf("annotated", []corev1.Container{sh("app", busybox1, richApp), probe("other", busybox1, "wait")}))
	before := p.look(t, "app")
	edit := func(mode string) {
		t.Helper()
		p.awaitLog(t, "app", "version 1")
		p.annotate(t, "mode.app", mode)
	}
	next := func(mode, init string) {
		t.Helper()
		edit(mode)
		p.restarts(t, "app")
		p.awaitLog(t, "app", "version 1")
		if got := p.inside(t, "app", "readlink /proc/1/exe"); got != init {
			t.Errorf("in mode %q pid 1 is %s, want %s", mode, got, init)
		}
	}
	next("dumb-init", "/run/.pouch/init")
	next("sbin-init", "/bin/busybox")
	// An edit that cannot be obeyed is told, and taken back.
	edit("machine")
	p.endApp(t, "app")
	n.awaitEvent(t, p, "Failed", `annotation rich.cri-pouch.io/mode.app: "machine" is no mode of a rich container`)
	p.annotate(t, "mode.app", "")
	p.await(t, "the container runs again", func(now *corev1.Pod) bool { return statusOf(now, "app").State.Running != nil })
	p.awaitLog(t, "app", "version 1")
	if got := p.inside(t, "app", "cat /proc/1/comm"); got != "sh" {
		t.Errorf("without a mode pid 1 is %s", got)
	}
	after := p.look(t, "app")
	if before.ip != after.ip || before.sandbox != after.sandbox || before.others["other"].ContainerID != after.others["other"].ContainerID {
		t.Errorf("the pod was %+v, is %+v", before, after)
	}
}
