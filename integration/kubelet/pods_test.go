package kubelet

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	toolswatch "k8s.io/client-go/tools/watch"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/kubelet/cluster"
)

// patience is how long a test waits for one thing.
const patience = 90 * time.Second

const namespace = "default"

func limited(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// pod is a pod of the cluster that a test looks at.
type pod struct {
	n               *node
	namespace, name string
	uid             types.UID
}

// sh is a container that runs a shell script.
func sh(name, image, script string) corev1.Container {
	return corev1.Container{Name: name, Image: image, Command: []string{"sh", "-c", script}}
}

// podOf describes a pod of these containers; edits change it.
func podOf(name string, containers []corev1.Container, edits ...func(*corev1.Pod)) *corev1.Pod {
	grace := int64(2)
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: name + "-", Namespace: namespace},
		Spec:       corev1.PodSpec{Containers: containers, TerminationGracePeriodSeconds: &grace},
	}
	for _, edit := range edits {
		edit(p)
	}
	return p
}

// create makes a pod, which is deleted when the test ends.
func (n *node) create(t testing.TB, spec *corev1.Pod) *pod {
	t.Helper()
	made, err := n.Client.CoreV1().Pods(spec.Namespace).Create(limited(t), spec, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("create pod %s: %v", spec.GenerateName, err)
	}
	p := &pod{n, made.Namespace, made.Name, made.UID}
	t.Cleanup(func() {
		if t.Failed() {
			p.explain(t)
		}
		if !p.remove(t) {
			p.explain(t)
		}
	})
	return p
}

// run is create that waits until the pod is Ready.
func (n *node) run(t testing.TB, spec *corev1.Pod) *pod {
	t.Helper()
	p := n.create(t, spec)
	p.awaitReady(t)
	return p
}

// await waits until ok is true of the pod, and gives it.
func (p *pod) await(t testing.TB, what string, ok func(*corev1.Pod) bool) *corev1.Pod {
	t.Helper()
	seen, err := cluster.Await(limited(t), p.n.Client.CoreV1().RESTClient(), "pods", p.namespace, p.name, func(now *corev1.Pod) (bool, error) { return ok(now), nil })
	if err != nil {
		t.Fatalf("wait until %s: %v", what, err)
	}
	return seen
}

func (p *pod) awaitReady(t testing.TB) *corev1.Pod {
	t.Helper()
	return p.await(t, "the pod is Ready", isReady)
}

func isReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// get gives the pod as it is.
func (p *pod) get(t testing.TB) *corev1.Pod {
	t.Helper()
	now, err := p.n.Client.CoreV1().Pods(p.namespace).Get(limited(t), p.name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return now
}

// statusOf gives the status of a container of any kind; an empty one where there is none yet.
func statusOf(p *corev1.Pod, container string) corev1.ContainerStatus {
	for _, list := range [][]corev1.ContainerStatus{p.Status.ContainerStatuses, p.Status.InitContainerStatuses, p.Status.EphemeralContainerStatuses} {
		for _, s := range list {
			if s.Name == container {
				return s
			}
		}
	}
	return corev1.ContainerStatus{}
}

// idOf gives the ID by which the runtime knows a container.
func idOf(s corev1.ContainerStatus) string {
	_, id, _ := strings.Cut(s.ContainerID, "://")
	return id
}

// remove deletes the pod, waits until it is gone, and says whether it went.
func (p *pod) remove(t testing.TB) bool {
	t.Helper()
	grace := int64(1)
	ctx := limited(t)
	err := p.n.Client.CoreV1().Pods(p.namespace).Delete(ctx, p.name, metav1.DeleteOptions{GracePeriodSeconds: &grace})
	if err != nil && !strings.Contains(err.Error(), "not found") {
		t.Errorf("delete pod %s: %v", p.name, err)
	}
	if err := cluster.AwaitGone(ctx, p.n.Client.CoreV1().RESTClient(), "pods", p.namespace, p.name); err != nil {
		t.Error(err)
		return false
	}
	return true
}

// setImage edits the image of one container.
func (p *pod) setImage(t testing.TB, container, image string) {
	t.Helper()
	p.patchImage(t, "containers", container, image)
}

func (p *pod) patchImage(t testing.TB, list, container, image string) {
	t.Helper()
	patch := fmt.Sprintf(`{"spec":{%q:[{"name":%q,"image":%q}]}}`, list, container, image)
	if _, err := p.n.Client.CoreV1().Pods(p.namespace).Patch(limited(t), p.name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatalf("set the image of %s: %v", container, err)
	}
}

// log gives what a container has written so far; previous asks for its predecessor's.
func (p *pod) log(t testing.TB, container string, previous bool) string {
	t.Helper()
	r, err := p.n.Client.CoreV1().Pods(p.namespace).GetLogs(p.name, &corev1.PodLogOptions{Container: container, Previous: previous}).Stream(limited(t))
	if err != nil {
		t.Fatalf("log of %s: %v", container, err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("log of %s: %v", container, err)
	}
	return string(b)
}

// awaitLog follows a container's log until it holds text.
func (p *pod) awaitLog(t testing.TB, container, text string) {
	t.Helper()
	r, err := p.n.Client.CoreV1().Pods(p.namespace).GetLogs(p.name, &corev1.PodLogOptions{Container: container, Follow: true}).Stream(limited(t))
	if err != nil {
		t.Fatalf("log of %s: %v", container, err)
	}
	defer r.Close()
	var seen strings.Builder
	for s := bufio.NewScanner(r); s.Scan(); {
		seen.WriteString(s.Text() + "\n")
		if strings.Contains(seen.String(), text) {
			return
		}
	}
	t.Fatalf("the log of %s ends without %q:\n%s", container, text, seen.String())
}

// awaitEvent waits for an event about a pod with this reason, whose message holds text.
func (n *node) awaitEvent(t testing.TB, p *pod, reason, text string) {
	t.Helper()
	list := cache.NewFilteredListWatchFromClient(n.Client.CoreV1().RESTClient(), "events", p.namespace, func(o *metav1.ListOptions) {
		o.FieldSelector = "involvedObject.name=" + p.name
	})
	if _, err := toolswatch.UntilWithSync(limited(t), list, nil, nil, func(e watch.Event) (bool, error) {
		event, is := e.Object.(*corev1.Event)
		return is && event.Reason == reason && strings.Contains(event.Message, text), nil
	}); err != nil {
		t.Fatalf("wait for an event %s with %q: %v", reason, text, err)
	}
}

// inside runs a script in a container, by the runtime's ExecSync, and gives what it prints without spaces around it.
func (p *pod) inside(t testing.TB, container, script string) string {
	t.Helper()
	id := idOf(statusOf(p.get(t), container))
	r, err := p.n.Lab.Daemon.Runtime.ExecSync(limited(t), &runtime.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", script}, Timeout: 30})
	if err != nil {
		t.Fatalf("run %q in %s: %v", script, container, err)
	}
	if r.ExitCode != 0 {
		t.Fatalf("%q in %s exits with %d: %s%s", script, container, r.ExitCode, r.Stdout, r.Stderr)
	}
	return strings.TrimSpace(string(r.Stdout))
}

// sandbox gives the ID of the pod's one sandbox that is ready.
func (p *pod) sandbox(t testing.TB) string {
	t.Helper()
	r, err := p.n.Lab.Daemon.Runtime.ListPodSandbox(limited(t), &runtime.ListPodSandboxRequest{Filter: &runtime.PodSandboxFilter{
		LabelSelector: map[string]string{"io.kubernetes.pod.uid": string(p.uid)},
		State:         &runtime.PodSandboxStateValue{State: runtime.PodSandboxState_SANDBOX_READY},
	}})
	if err != nil || len(r.Items) != 1 {
		t.Fatalf("pod %s has the ready sandboxes %v (%v), not one", p.name, r.GetItems(), err)
	}
	return r.Items[0].Id
}
