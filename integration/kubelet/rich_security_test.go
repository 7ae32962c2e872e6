package kubelet

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cri-pouch/cri-pouch/integration/kubelet/cluster"
)

// makeNamespace makes a namespace in which a Pod Security profile is enforced; it goes when the test ends.
func (n *node) makeNamespace(t testing.TB, name, profile string) {
	t.Helper()
	api := n.Client.CoreV1()
	if _, err := api.Namespaces().Create(limited(t), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: name, Labels: map[string]string{"pod-security.kubernetes.io/enforce": profile},
	}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := api.Namespaces().Delete(limited(t), name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
		if err := cluster.AwaitGone(limited(t), api.RESTClient(), "namespaces", "", name); err != nil {
			t.Error(err)
		}
	})
	// A pod is refused in a namespace that has no account for it yet.
	if _, err := cluster.Await(limited(t), api.RESTClient(), "serviceaccounts", name, "default", func(*corev1.ServiceAccount) (bool, error) { return true, nil }); err != nil {
		t.Fatal(err)
	}
}

func inNamespace(name string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Namespace = name }
}

// asUser makes the pod run as a user who is not root.
func asUser(id int64) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &id, RunAsGroup: &id}
	}
}

// restricted is what the profile of that name wants of every pod.
func restricted(p *corev1.Pod) {
	no, yes := false, true
	for i := range p.Spec.Containers {
		p.Spec.Containers[i].SecurityContext = &corev1.SecurityContext{
			RunAsNonRoot: &yes, AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		}
	}
}

// whoRuns gives the users of pid 1 and of the application, which is called probe.
func whoRuns(t testing.TB, p *pod, container string) string {
	t.Helper()
	return p.inside(t, container, `id() { while read key value rest; do [ "$key" = Uid: ] && echo $value; done <$1/status; }
for d in /proc/[0-9]*; do read name <$d/comm; [ "$name" = probe ] && set -- $d; done; echo $(id /proc/1) $(id $1)`)
}

func TestPodsOfTheRestrictedProfile(t *testing.T) {
	t.Parallel()
	n := startRich(t)
	n.makeNamespace(t, "strict", "restricted")
	// The profile is in force: a pod as others write it is not even admitted.
	_, err := n.Client.CoreV1().Pods("strict").Create(limited(t), podOf("loose", []corev1.Container{probe("app", dumb1, "wait")}, inNamespace("strict")), metav1.CreateOptions{})
	if !apierrors.IsForbidden(err) {
		t.Fatalf("a pod without security settings: %v", err)
	}
	t.Run("dumb-init runs as the asked user", func(t *testing.T) {
		t.Parallel()
		p := n.run(t, podOf("strict", []corev1.Container{probe("app", dumb1, "say=up", "wait", "exit=4")}, inNamespace("strict"), asUser(1000), restricted,
			richAnnotations("mode", "dumb-init"), func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever }))
		p.awaitLog(t, "app", "up")
		if got := p.inside(t, "app", "cat /proc/1/comm"); got != "dumb-init" {
			t.Errorf("pid 1 is %s", got)
		}
		if got := whoRuns(t, p, "app"); got != "1000 1000" {
			t.Errorf("pid 1 and the application run as %s", got)
		}
	})
	for name, c := range map[string]struct {
		edit  func(*corev1.Pod)
		parts []string
	}{
		"systemd is refused with the fix":             {func(*corev1.Pod) {}, []string{"user 1000", "hostUsers: false", "dumb-init", `namespace "strict"`, "rich.root_namespaces", "SETUID"}},
		"systemd is refused in a user namespace, too": {ownUsers, []string{"user 1000", "CAP_SETUID", "dumb-init"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := n.create(t, podOf("refused", []corev1.Container{probe("app", systemd1, "wait")}, inNamespace("strict"), asUser(1000), restricted,
				richAnnotations("mode", "systemd"), c.edit))
			now := p.await(t, "the container is refused", func(now *corev1.Pod) bool {
				w := statusOf(now, "app").State.Waiting
				return w != nil && w.Reason == "CreateContainerError"
			})
			message := statusOf(now, "app").State.Waiting.Message
			for _, part := range append(c.parts, "rich.cri-pouch.io/mode") {
				if !strings.Contains(message, part) {
					t.Errorf("the container's status says %q, without %q", message, part)
				}
			}
			n.awaitEvent(t, p, "Failed", c.parts[1])
		})
	}
}

// In a pod of the baseline profile the init is root; its application is the pod's user where that is allowed.
func TestPodsOfTheBaselineProfile(t *testing.T) {
	t.Parallel()
	n := startRich(t)
	n.makeNamespace(t, "trusted", "baseline") // daemonConfig names it
	n.makeNamespace(t, "basic", "baseline")
	app := func() []corev1.Container { return []corev1.Container{probe("app", systemd1, "say=up", "wait")} }
	for name, c := range map[string]struct {
		edits []func(*corev1.Pod)
		users string // of pid 1 and the application
	}{
		"as root":                             {[]func(*corev1.Pod){inNamespace("basic")}, "0 0"},
		"as a user, the namespace is trusted": {[]func(*corev1.Pod){inNamespace("trusted"), asUser(1000)}, "0 1000"},
		"as a user, in a user namespace":      {[]func(*corev1.Pod){inNamespace("basic"), asUser(1000), ownUsers}, "0 1000"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := n.run(t, podOf("baseline", app(), append(c.edits, richAnnotations("mode", "systemd"))...))
			p.awaitLog(t, "app", "up")
			if got := whoRuns(t, p, "app"); got != c.users {
				t.Errorf("pid 1 and the application run as %s, want %s", got, c.users)
			}
			own := p.get(t).Spec.HostUsers != nil
			if got := strings.Fields(p.inside(t, "app", "cat /proc/1/uid_map")); len(got) != 3 || (got[1] != "0") != own {
				t.Errorf("users inside are %v of the node", got)
			}
		})
	}
}

// ownUsers gives the pod a user namespace.
func ownUsers(p *corev1.Pod) {
	no := false
	p.Spec.HostUsers = &no
}
