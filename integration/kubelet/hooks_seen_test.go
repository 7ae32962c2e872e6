package kubelet

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

func never(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever }

// What is wrong with an annotation stands in the pod's status, with its name and the place in it; with the mistake corrected the
// pod starts. What a hook must not have is said there too, and is had in a namespace that the administrator has named.
func TestHooksThatAreRefusedShowInThePodsStatus(t *testing.T) {
	t.Parallel()
	n := start(t)
	n.makeNamespace(t, "granted", "baseline") // daemonConfig names it
	route := hookList(t, harness.ShellHook("route", "ip route add 192.0.2.0/24 dev eth0", "capabilities", []string{"NET_ADMIN"}))
	for name, test := range map[string]struct {
		key, text, corrected string
		namespace            string
		parts                []string // of what the kubelet says; none: the pod runs
	}{
		"malformed":       {"prestart.web", "[\n {name}]", "[]", namespace, []string{"line 2, column 3", "hook 1"}},
		"an unknown one":  {"poststop", `[{"name": "a", "exec": ["true"], "path": "/etc"}]`, "[]", namespace, []string{"line 1, column 34", `field "path" is unknown`}},
		"beyond its own":  {"prestart", route, oneHook(t, "route", "true", time.Second), namespace, []string{`hook "route"`, "NET_ADMIN in hooks.grants", `namespace "default"`}},
		"what is granted": {"prestart", route, "", "granted", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := n.create(t, podOf("refused", []corev1.Container{sh("web", app1, serving)}, hooked(test.key, test.text), inNamespace(test.namespace)))
			if len(test.parts) == 0 {
				p.awaitReady(t)
				if got := p.inside(t, "web", "ip route"); !strings.Contains(got, "192.0.2.0/24 dev eth0") {
					t.Errorf("the routes are %s", got)
				}
				return
			}
			var said string
			p.await(t, "the kubelet says why", func(now *corev1.Pod) bool {
				w := statusOf(now, "web").State.Waiting
				if w == nil || w.Reason != "CreateContainerError" {
					return false
				}
				said = w.Message
				return true
			})
			for _, part := range append(test.parts, hookPrefix+test.key) {
				if !strings.Contains(said, part) {
					t.Errorf("the kubelet says %q, without %q", said, part)
				}
			}
			n.awaitEvent(t, p, "Failed", test.parts[0])
			p.annotateKey(t, hookPrefix+test.key, test.corrected)
			p.awaitReady(t)
		})
	}
}

// Of a list the hooks run in their order; one whose failure is ignored shows when the container has ended, one that is late with
// its timeout. The address that a hook sees is the one that the API server tells.
func TestPrestartHooksOfAListShowInThePodsStatus(t *testing.T) {
	t.Parallel()
	n := start(t)
	spec := podOf("listed", []corev1.Container{sh("web", app1, awaitHook("end")+"; exit 3")}, never,
		hooked("prestart", hookList(t,
			harness.ShellHook("ignored", `echo ignored >>/witness/story; echo no such licence; exit 4`, "onFailure", "ignore"),
			harness.ShellHook("look", `ip -o -4 addr show eth0 | awk '{print $4}' >>/witness/story; ip route | grep -c ^default >>/witness/story`))))
	witness := witnessed(t, spec)
	p := n.run(t, spec)
	if got, want := storyOf(t, witness), "ignored\n"+p.get(t).Status.PodIP+"/"; !strings.HasPrefix(got, want) || !strings.HasSuffix(got, "\n1\n") {
		t.Errorf("the story is %q, want %q and a default route", got, want)
	}
	put(t, witness, "end")
	now := p.await(t, "the pod has failed", func(now *corev1.Pod) bool { return now.Status.Phase == corev1.PodFailed })
	if s := statusOf(now, "web").State.Terminated; s.ExitCode != 3 || !strings.Contains(s.Message, `prestart hook "ignored" failed with exit code 4: no such licence`) {
		t.Errorf("the end: %+v", s)
	}

	spec = podOf("late", []corev1.Container{sh("web", app1, "touch /witness/ran; "+serving)}, never)
	witness = witnessed(t, spec)
	hooked("prestart", hookList(t, harness.StubbornHook("slow", witness, "timeout", "1s")))(spec)
	p = n.create(t, spec)
	now = p.await(t, "the start has failed", func(now *corev1.Pod) bool { return statusOf(now, "web").State.Terminated != nil })
	if s := statusOf(now, "web").State.Terminated; s.ExitCode != 128 || s.Reason != "StartError" || !strings.Contains(s.Message, `prestart hook "slow" timed out after 1s: begun`) {
		t.Errorf("the start: %+v", s)
	}
	if left := harness.Marked(t, witness); len(left) > 0 {
		t.Errorf("processes of the hook go on: %v", left)
	}
	if _, err := os.Stat(filepath.Join(witness, "ran")); err == nil {
		t.Error("the program ran")
	}
}

// How each container ended is told to its poststop hook, whose output is in the pod's log and whose failure in the pod's status.
func TestPoststopHooksAreToldHowAContainerEnded(t *testing.T) {
	t.Parallel()
	n := start(t)
	ends := map[string]struct {
		script string
		told   string
		code   int32
		reason string
	}{
		"done":     {"exit 0", "0  Completed", 0, "Completed"},
		"broken":   {"exit 9", "9  Error", 9, "Error"},
		"signaled": {"kill -TERM $$$$; sleep 10", "143 15 Error", 143, "Error"}, // the API server makes one dollar of two
		"hog":      {"exec tail /dev/zero", "137 9 OOMKilled", 137, "OOMKilled"},
	}
	var containers []corev1.Container
	for name, end := range ends {
		c := sh(name, app1, end.script)
		if name == "hog" {
			c = withLimits(c, "", "64Mi")
		}
		containers = append(containers, c)
	}
	shared := true // the first process of a pid namespace gets no signal from itself
	p := n.create(t, podOf("told", containers, never, func(p *corev1.Pod) { p.Spec.ShareProcessNamespace = &shared },
		hooked("poststop", hookList(t,
			harness.ShellHook("tell", `echo "$POUCH_EXIT_CODE $POUCH_SIGNAL $POUCH_REASON"`, "log", true, "timeout", "10s"),
			harness.ShellHook("report", "echo the disk is full >&2; exit 3", "timeout", "10s")))))
	now := p.await(t, "all have ended", func(now *corev1.Pod) bool { return now.Status.Phase == corev1.PodFailed })
	for name, end := range ends {
		s := statusOf(now, name).State.Terminated
		if s.ExitCode != end.code || s.Reason != end.reason || !strings.Contains(s.Message, `poststop hook "report" failed with exit code 3: the disk is full`) {
			t.Errorf("%s: %+v", name, s)
		}
		if got := p.log(t, name, false); got != "[hook tell] "+end.told+"\n" {
			t.Errorf("the log of %s is %q, want %q", name, got, end.told)
		}
	}
}

// Thirty pods at once, each with hooks around its start and its end, which run once.
func TestThirtyPodsWithHooksAtOnce(t *testing.T) {
	n := start(t)
	const count = 30
	witness := t.TempDir()
	var pods []*pod
	for i := range count {
		spec := podOf("many", []corev1.Container{sh("web", app1, fmt.Sprintf("echo ran >>/witness/%d; exit %[1]d", i))}, never,
			hooked("prestart", oneHook(t, "before", fmt.Sprintf("echo before >>/witness/%d", i), 30*time.Second),
				"poststop", oneHook(t, "after", fmt.Sprintf("echo after $POUCH_EXIT_CODE >>/witness/%d", i), 30*time.Second)))
		spec.Spec.Volumes = []corev1.Volume{{Name: "witness", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: witness}}}}
		spec.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "witness", MountPath: "/witness"}}
		pods = append(pods, n.create(t, spec))
	}
	for i, p := range pods {
		now := p.await(t, "the pod has ended", func(now *corev1.Pod) bool {
			return now.Status.Phase == corev1.PodFailed || now.Status.Phase == corev1.PodSucceeded
		})
		if s := statusOf(now, "web").State.Terminated; s.ExitCode != int32(i) || s.Message != "" {
			t.Errorf("pod %d: %+v", i, s)
		}
		if b, err := os.ReadFile(filepath.Join(witness, fmt.Sprint(i))); err != nil || string(b) != fmt.Sprintf("before\nran\nafter %d\n", i) {
			t.Errorf("pod %d: %q, %v", i, b, err)
		}
	}
	var all sync.WaitGroup
	for _, p := range pods { // their clean-up would delete one after the other
		all.Go(func() {
			if err := n.Client.CoreV1().Pods(p.namespace).Delete(limited(t), p.name, metav1.DeleteOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}
