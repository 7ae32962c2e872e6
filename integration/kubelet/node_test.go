package kubelet

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cri-pouch/cri-pouch/integration/kubelet/cluster"
)

// withLimits gives a container limits of CPU and memory; an empty one is none.
func withLimits(c corev1.Container, cpu, memory string) corev1.Container {
	c.Resources.Limits = corev1.ResourceList{}
	if cpu != "" {
		c.Resources.Limits[corev1.ResourceCPU] = resource.MustParse(cpu)
	}
	if memory != "" {
		c.Resources.Limits[corev1.ResourceMemory] = resource.MustParse(memory)
	}
	return c
}

func TestDeploymentBecomesAvailableAndFollowsItsImage(t *testing.T) {
	t.Parallel()
	n := start(t)
	api := n.Client.AppsV1().Deployments(namespace)
	replicas, name := int32(2), "shop"
	labels := map[string]string{"app": name}
	template := podOf(name, []corev1.Container{sh("app", app1, "sleep infinity")})
	if _, err := api.Create(limited(t), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: template.Spec}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		foreground := metav1.DeletePropagationForeground
		if err := api.Delete(limited(t), name, metav1.DeleteOptions{PropagationPolicy: &foreground}); err != nil {
			t.Error(err)
		}
		if err := cluster.AwaitGone(limited(t), n.Client.AppsV1().RESTClient(), "deployments", namespace, name); err != nil {
			t.Error(err)
		}
	})
	available := func(image string) {
		t.Helper()
		if _, err := cluster.Await(limited(t), n.Client.AppsV1().RESTClient(), "deployments", namespace, name, func(d *appsv1.Deployment) (bool, error) {
			s := d.Status
			return s.ObservedGeneration == d.Generation && s.AvailableReplicas == replicas && s.UpdatedReplicas == replicas && s.Replicas == replicas &&
				d.Spec.Template.Spec.Containers[0].Image == image, nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	available(app1)
	patch := fmt.Sprintf(`{"spec":{"template":{"spec":{"containers":[{"name":"app","image":%q}]}}}}`, app2)
	if _, err := api.Patch(limited(t), name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	available(app2)
}

func TestPodOnTheHostNetwork(t *testing.T) {
	t.Parallel()
	n := start(t)
	p := n.run(t, podOf("host", []corev1.Container{sh("app", app1, "sleep infinity")}, func(p *corev1.Pod) { p.Spec.HostNetwork = true }))
	if now := p.get(t); now.Status.PodIP != n.IP.String() {
		t.Errorf("pod IP %s, the node's is %s", now.Status.PodIP, n.IP)
	}
	host, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	if got := p.inside(t, "app", "readlink /proc/self/ns/net"); got != host {
		t.Errorf("network namespace %s, the host's is %s", got, host)
	}
	before := p.look(t, "app")
	p.setImage(t, "app", app2)
	p.awaitImage(t, "app", app2)
	before.sameBut(t, p.look(t, "app"))
}

func TestResourcesAreTheContainersLimits(t *testing.T) {
	t.Parallel()
	n := start(t)
	p := n.run(t, podOf("resources", []corev1.Container{withLimits(sh("app", app1, "sleep infinity"), "500m", "64Mi")}))
	limits := "cd /sys/fs/cgroup; if [ -e cgroup.procs ]; then cat memory.max; cat cpu.max | tr ' ' '\\n' | head -1; " +
		"else cat memory/memory.limit_in_bytes cpu/cpu.cfs_quota_us; fi"
	if got := strings.Fields(p.inside(t, "app", limits)); fmt.Sprint(got) != "[67108864 50000]" {
		t.Errorf("memory limit and CPU quota: %v", got)
	}
	p.resize(t, "app", "250m", "96Mi")
	if got := strings.Fields(p.inside(t, "app", limits)); fmt.Sprint(got) != "[100663296 25000]" {
		t.Errorf("memory limit and CPU quota after the resize: %v", got)
	}
}

// resize edits a container's limits and waits until the pod's status has them. The container stays.
func (p *pod) resize(t testing.TB, container, cpu, memory string) {
	t.Helper()
	before := statusOf(p.get(t), container)
	resources := fmt.Sprintf(`{"cpu":%q,"memory":%q}`, cpu, memory)
	patch := fmt.Sprintf(`{"spec":{"containers":[{"name":%q,"resources":{"requests":%s,"limits":%[2]s}}]}}`, container, resources)
	if _, err := p.n.Client.CoreV1().Pods(p.namespace).Patch(limited(t), p.name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "resize"); err != nil {
		t.Fatal(err)
	}
	now := p.await(t, "the status has the new limits", func(now *corev1.Pod) bool {
		r := statusOf(now, container).Resources
		return r != nil && r.Limits.Memory().String() == memory && r.Limits.Cpu().String() == cpu
	})
	if s := statusOf(now, container); s.ContainerID != before.ContainerID || s.RestartCount != before.RestartCount {
		t.Errorf("the container was %s, is %s with %d restarts", before.ContainerID, s.ContainerID, s.RestartCount)
	}
}

func TestEphemeralContainerSeesItsTarget(t *testing.T) {
	t.Parallel()
	n := start(t)
	p := n.run(t, podOf("debugged", []corev1.Container{sh("app", app1, "exec sleep 123456")}))
	before := p.look(t, "debug")
	p.debug(t, corev1.EphemeralContainer{
		TargetContainerName:      "app",
		EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug", Image: app2, Command: []string{"sleep", "infinity"}},
	})
	if got := p.inside(t, "debug", "ps -o args"); !strings.Contains(got, "sleep 123456") {
		t.Errorf("the ephemeral container sees no process of its target:\n%s", got)
	}
	after := p.look(t, "debug")
	before.edited = corev1.ContainerStatus{RestartCount: -1} // there was none
	before.sameBut(t, after)
}

// debug adds an ephemeral container to the pod, as kubectl debug does, and waits until it runs.
func (p *pod) debug(t testing.TB, c corev1.EphemeralContainer) {
	t.Helper()
	now := p.get(t)
	now.Spec.EphemeralContainers = append(now.Spec.EphemeralContainers, c)
	if _, err := p.n.Client.CoreV1().Pods(p.namespace).UpdateEphemeralContainers(limited(t), p.name, now, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	p.await(t, "the ephemeral container runs", func(now *corev1.Pod) bool { return statusOf(now, c.Name).State.Running != nil })
}

func TestStaticPodFollowsItsManifest(t *testing.T) {
	t.Parallel()
	n := start(t)
	manifest := filepath.Join(n.StaticPods(), "static.json")
	write := func(image string) {
		t.Helper()
		text := fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"static","namespace":%q},
"spec":{"terminationGracePeriodSeconds":1,"containers":[{"name":"app","image":%q,"command":["sleep","infinity"]}]}}`, namespace, image)
		// Renamed into place: the kubelet reads whatever it finds.
		if err := os.WriteFile(filepath.Join(n.Dir, "static.json"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(n.Dir, "static.json"), manifest); err != nil {
			t.Fatal(err)
		}
	}
	p := &pod{n: n, namespace: namespace, name: "static-" + n.Node()}
	t.Cleanup(func() {
		if t.Failed() {
			p.explain(t)
		}
		if err := os.Remove(manifest); err != nil {
			t.Error(err)
		}
		if err := cluster.AwaitGone(limited(t), n.Client.CoreV1().RESTClient(), "pods", namespace, p.name); err != nil {
			t.Error(err)
		}
	})
	write(app1)
	first := p.awaitReady(t)
	write(app2)
	second := p.await(t, "the pod runs the new image", func(now *corev1.Pod) bool {
		return isReady(now) && statusOf(now, "app").Image == app2
	})
	const hash = "kubernetes.io/config.hash"
	if first.Annotations[hash] == second.Annotations[hash] {
		t.Error("the static pod's hash, its UID for the kubelet, did not change")
	}
}
