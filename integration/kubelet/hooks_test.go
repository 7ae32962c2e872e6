package kubelet

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/harness"
	"github.com/cri-pouch/cri-pouch/integration/kubelet/cluster"
)

const hookPrefix = "hooks.cri-pouch.io/"

// oneHook is the list of one hook that runs a script, as an annotation has it.
func oneHook(t testing.TB, name, script string, timeout time.Duration) string {
	t.Helper()
	return hookList(t, harness.ShellHook(name, script, "timeout", timeout.String()))
}

// hookList is a list of hooks as an annotation has it.
func hookList(t testing.TB, list ...harness.Hook) string {
	t.Helper()
	b, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// hooked annotates a pod with pairs of a stage, maybe of one container, and its hooks.
func hooked(pairs ...string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		if p.Annotations == nil {
			p.Annotations = map[string]string{}
		}
		for i := 0; i+1 < len(pairs); i += 2 {
			p.Annotations[hookPrefix+pairs[i]] = pairs[i+1]
		}
	}
}

// put makes an empty file in a folder.
func put(t testing.TB, dir, name string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// awaitHook is a script that waits until the test has put a file into the folder witness, and fails if it never does.
func awaitHook(file string) string {
	return fmt.Sprintf("i=0; until [ -e /witness/%s ]; do sleep 0.05; i=$((i+1)); [ $i -lt 1000 ] || exit 1; done", file)
}

// storyOf gives the lines of the file story, on which hooks and programs write.
func storyOf(t testing.TB, witness string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(witness, "story"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// awaitStory waits until the story is this one. A container that runs may not have written its line yet.
func awaitStory(t testing.TB, witness, want string) {
	t.Helper()
	for ctx := limited(t); storyOf(t, witness) != want; time.Sleep(20 * time.Millisecond) { // it is written by containers
		if ctx.Err() != nil || len(storyOf(t, witness)) > len(want) {
			t.Fatalf("the story is\n%swant\n%s", storyOf(t, witness), want)
		}
	}
}

// Whoever looks at the pod sees which hook failed, with its code and its last words; the kubelet tries again, and takes the
// annotation as it is then.
func TestAFailingPrestartHookShowsInThePodsStatus(t *testing.T) {
	t.Parallel()
	n := start(t)
	spec := podOf("prestart", []corev1.Container{sh("web", app1, "touch /witness/ran; "+serving), sh("agent", app1, "sleep infinity")},
		hooked("prestart.web", oneHook(t, "licence", "echo once; echo no licence for $HOSTNAME >&2; exit 9", 20*time.Second),
			"poststop.web", oneHook(t, "clean", "touch /witness/cleaned", 20*time.Second)))
	witness := witnessed(t, spec)
	p := n.create(t, spec)
	words := []string{`prestart hook "licence" failed with exit code 9`, "no licence for " + p.name}
	now := p.await(t, "the second try has failed", func(now *corev1.Pod) bool {
		s := statusOf(now, "web")
		return s.RestartCount >= 1 && s.LastTerminationState.Terminated != nil && s.State.Waiting != nil
	})
	s := statusOf(now, "web")
	for _, part := range words {
		if ended := s.LastTerminationState.Terminated; ended.ExitCode != 128 || ended.Reason != "StartError" || !strings.Contains(ended.Message, part) {
			t.Errorf("the last state is %+v, without %q", ended, part)
		}
	}
	n.awaitEvent(t, p, "Failed", words[0])
	n.awaitEvent(t, p, "BackOff", "restarting failed container web")
	agent := statusOf(now, "agent")
	p.annotateKey(t, hookPrefix+"prestart.web", oneHook(t, "licence", "true", 20*time.Second))
	now = p.awaitReady(t)
	if s := statusOf(now, "web"); s.State.Running == nil || s.LastTerminationState.Terminated.Reason != "StartError" {
		t.Errorf("with the hook that succeeds: %+v", s)
	}
	if s := statusOf(now, "agent"); s.ContainerID != agent.ContainerID || s.RestartCount != 0 {
		t.Errorf("the container without hooks was %+v, is %+v", agent, s)
	}
	if _, err := os.Stat(filepath.Join(witness, "cleaned")); err == nil {
		t.Error("a poststop hook has run for a program that never did")
	}
}

// A successor's start comes after its predecessor's poststop hooks, and knows both images. At the pod's end volumes stay
// until the hooks are done.
func TestHooksOfAnUpgradeAndOfTheEnd(t *testing.T) {
	t.Parallel()
	n := start(t)
	web := sh("web", app1, `echo "version $(cat /version)" >>/witness/story; echo kept >/data/note; `+serving)
	web.VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	const told = `"$POUCH_ATTEMPT ${POUCH_UPGRADE-no} $POUCH_OLD_IMAGE $POUCH_NEW_IMAGE`
	spec := podOf("hooked", []corev1.Container{web},
		hooked("prestart", oneHook(t, "before", `echo start `+told+`" >>/witness/story; ip route | grep -q default`, 20*time.Second),
			"poststop", oneHook(t, "after", `sleep 0.5; echo stop `+told+` $POUCH_REASON $POUCH_EXIT_CODE $(cat /data/note)" >>/witness/story; [ $POUCH_ATTEMPT = 0 ] && exit
touch /data/late; `+awaitHook("go"), 50*time.Second)),
		func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}}}
		})
	witness := witnessed(t, spec)
	p := n.run(t, spec)
	before := p.look(t, "web")
	p.setImage(t, "web", app2)
	p.awaitImage(t, "web", app2)
	before.sameBut(t, p.look(t, "web"))
	begun := fmt.Sprintf("start 0 no  \nversion 1\nstop 0 no   Killed 137 kept\nstart 1 1 %s %s\nversion 2\n", app1, app2)
	awaitStory(t, witness, begun)
	grace, data := int64(1), filepath.Join(n.KubeletDir(), "pods", string(p.uid), "volumes/kubernetes.io~empty-dir/data")
	if err := n.Client.CoreV1().Pods(p.namespace).Delete(limited(t), p.name, metav1.DeleteOptions{GracePeriodSeconds: &grace}); err != nil {
		t.Fatal(err)
	}
	awaitFile(t, filepath.Join(data, "late")) // by the hook, into the volume as the kubelet has mounted it
	time.Sleep(2 * time.Second)               // many times what the kubelet needs to unmount the volumes of a pod that has ended
	if _, err := os.Stat(filepath.Join(data, "late")); err != nil {
		t.Errorf("while the hook runs the kubelet has taken the volume away: %v", err)
	}
	if s := statusOf(p.get(t), "web"); s.State.Terminated != nil {
		t.Errorf("while the hook runs the end is told: %+v", s.State.Terminated)
	}
	put(t, witness, "go")
	p.awaitGone(t)
	if got, want := storyOf(t, witness), begun+"stop 1 no   Killed 137 kept\n"; got != want {
		t.Errorf("at the end the story is\n%swant\n%s", got, want)
	}
}

func (p *pod) awaitGone(t testing.TB) {
	t.Helper()
	if err := cluster.AwaitGone(limited(t), p.n.Client.CoreV1().RESTClient(), "pods", p.namespace, p.name); err != nil {
		t.Fatal(err)
	}
}

// The kubelet asks for nothing while a start is in progress: a pod that nobody wants any more goes when the time of its
// prestart hooks is over, at the latest, and its program never runs.
func TestDeletingAPodWaitsForNoMoreThanItsPrestartHook(t *testing.T) {
	t.Parallel()
	n := start(t)
	spec := podOf("unwanted", []corev1.Container{sh("web", app1, "touch /witness/ran; "+serving)},
		hooked("prestart", oneHook(t, "slow", "touch /witness/begun; sleep 80", 6*time.Second), "poststop", oneHook(t, "clean", "touch /witness/cleaned", 20*time.Second)))
	witness := witnessed(t, spec)
	p := n.create(t, spec)
	awaitFile(t, filepath.Join(witness, "begun"))
	begin := time.Now()
	p.removeWithin(t, 2)
	if took := time.Since(begin); took > 40*time.Second {
		t.Errorf("the deletion took %s", took)
	}
	for _, never := range []string{"ran", "cleaned"} {
		if _, err := os.Stat(filepath.Join(witness, never)); err == nil {
			t.Errorf("%s is there", never)
		}
	}
}

// A pod that is deleted while a prestart hook runs, which succeeds: what its hooks see is a whole life.
func TestAPodIsDeletedWhileItsPrestartHookRuns(t *testing.T) {
	t.Parallel()
	n := start(t)
	spec := podOf("late", []corev1.Container{sh("web", app1, "echo ran >>/witness/story; "+serving)},
		hooked("prestart", oneHook(t, "slow", "touch /witness/begun; "+awaitHook("go")+"; echo prestart >>/witness/story", 60*time.Second),
			"poststop", oneHook(t, "clean", "echo poststop $POUCH_REASON >>/witness/story", 20*time.Second)))
	witness := witnessed(t, spec)
	p := n.create(t, spec)
	awaitFile(t, filepath.Join(witness, "begun"))
	grace := int64(1)
	if err := n.Client.CoreV1().Pods(p.namespace).Delete(limited(t), p.name, metav1.DeleteOptions{GracePeriodSeconds: &grace}); err != nil {
		t.Fatal(err)
	}
	put(t, witness, "go")
	p.awaitGone(t)
	// On a busy machine the program gets nothing done in its grace of a second.
	if got := storyOf(t, witness); strings.Replace(got, "ran\n", "", 1) != "prestart\npoststop Killed\n" {
		t.Errorf("the story is %q", got)
	}
}

// With an init the hook at the end comes after the services' shutdown too.
func TestHooksOfARichPod(t *testing.T) {
	t.Parallel()
	n := startRich(t)
	for _, m := range richMachines {
		t.Run(m.mode, func(t *testing.T) { t.Parallel(); hooksOfARichPod(t, n, m) })
	}
}

func hooksOfARichPod(t *testing.T, n *node, m richMachine) {
	web := sh("web", m.image, richApp)
	spec := podOf("rich-hooked-"+m.mode, []corev1.Container{web}, richAnnotations("mode", m.mode),
		hooked("prestart", oneHook(t, "before", `[ -e /witness/fixed ] || { echo not yet >&2; exit 9; }; echo "start $POUCH_ATTEMPT" >>/witness/story`, 20*time.Second),
			"poststop", oneHook(t, "after", `echo "stop $([ -e /witness/asked ] && echo asked) $([ -e /witness/stopped ] && echo stopped) $POUCH_REASON $POUCH_EXIT_CODE" >>/witness/story`, 20*time.Second)))
	grace := int64(20)
	spec.Spec.TerminationGracePeriodSeconds = &grace
	witness := witnessed(t, spec)
	p := n.create(t, spec)
	now := p.await(t, "the first try has failed", func(now *corev1.Pod) bool { return statusOf(now, "web").LastTerminationState.Terminated != nil })
	if s := statusOf(now, "web").LastTerminationState.Terminated; s.ExitCode != 128 || s.Reason != "StartError" || !strings.Contains(s.Message, `prestart hook "before" failed with exit code 9`) {
		t.Errorf("the first try: %+v", s)
	}
	put(t, witness, "fixed")
	p.await(t, "it runs", func(now *corev1.Pod) bool { return statusOf(now, "web").State.Running != nil })
	up := func() {
		t.Helper()
		p.inside(t, "web", "until pidof busybox; do sleep 0.1; done")
		if m.mode == "systemd" {
			p.inside(t, "web", "until systemctl -q is-active witness; do sleep 0.1; done")
		}
	}
	up()
	p.endApp(t, "web")
	p.await(t, "it runs again", func(now *corev1.Pod) bool {
		s := statusOf(now, "web")
		return s.LastTerminationState.Terminated != nil && s.LastTerminationState.Terminated.ExitCode == 3 && s.State.Running != nil
	})
	up()
	stopped := ""
	if m.services {
		stopped = "stopped"
	}
	for _, file := range strings.Fields("asked " + stopped) {
		if err := os.Remove(filepath.Join(witness, file)); err != nil {
			t.Error(err)
		}
	}
	p.removeWithin(t, grace)
	var story []string
	for line := range strings.Lines(storyOf(t, witness)) {
		if kind, _, _ := strings.Cut(line, " "); kind == "start" {
			line = "start\n" // which attempt succeeds depends on the kubelet's back-off
		}
		story = append(story, line)
	}
	if got, want := strings.Join(story, ""), fmt.Sprintf("start\nstop asked %s Error 3\nstart\nstop asked %[1]s Error 7\n", stopped); got != want {
		t.Errorf("the story is %q, want %q", got, want)
	}
}

// A daemon that dies while a prestart hook runs: the kubelet's next try begins with the hook again, and the program runs once.
func TestDaemonKilledDuringAPrestartHook(t *testing.T) {
	n := start(t)
	spec := podOf("cut-start", []corev1.Container{sh("web", app1, "echo ran >>/witness/story; "+serving)},
		hooked("prestart", oneHook(t, "slow", `echo begun >>/witness/story; `+awaitHook("go")+`; echo done >>/witness/story`, 60*time.Second),
			"poststop", oneHook(t, "clean", "echo cleaned $POUCH_REASON >>/witness/story", 20*time.Second)))
	witness := witnessed(t, spec)
	p := n.create(t, spec)
	awaitFile(t, filepath.Join(witness, "story"))
	n.killDaemon(t)
	n.startDaemon(t)
	awaitStory(t, witness, "begun\nbegun\n")
	put(t, witness, "go")
	p.awaitReady(t)
	awaitStory(t, witness, "begun\nbegun\ndone\nran\n")
	p.removeWithin(t, 1)
	if got := storyOf(t, witness); got != "begun\nbegun\ndone\nran\ncleaned Killed\n" {
		t.Errorf("at the end the story is %q", got)
	}
}

// A daemon that dies between the end and its hook's: the hook runs once, and the kubelet learns of the end after it.
func TestDaemonKilledDuringAPoststopHook(t *testing.T) {
	n := start(t)
	spec := podOf("cut-end", []corev1.Container{sh("web", app1, awaitHook("end")+"; exit 6")},
		hooked("poststop", oneHook(t, "clean", `echo "begun $POUCH_EXIT_CODE" >>/witness/story; `+awaitHook("go")+`; echo done >>/witness/story`, 50*time.Second)),
		func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever })
	witness := witnessed(t, spec)
	p := n.run(t, spec)
	n.killDaemon(t)
	put(t, witness, "end")
	awaitFile(t, filepath.Join(witness, "story"))
	n.startDaemon(t)
	n.awaitStatusSince(t, time.Now())
	if s := statusOf(p.get(t), "web"); s.State.Running == nil {
		t.Errorf("the end is told before the hook's: %+v", s.State)
	}
	n.killDaemon(t)
	n.startDaemon(t)
	put(t, witness, "go")
	now := p.await(t, "the pod has failed", func(now *corev1.Pod) bool { return now.Status.Phase == corev1.PodFailed })
	if s := statusOf(now, "web").State.Terminated; s.ExitCode != 6 || s.Reason != "Error" {
		t.Errorf("the end: %+v", s)
	}
	if got := storyOf(t, witness); got != "begun 6\ndone\n" {
		t.Errorf("the story is %q", got)
	}
	r, err := n.Lab.Daemon.Runtime.ContainerStatus(limited(t), &runtime.ContainerStatusRequest{ContainerId: idOf(statusOf(now, "web")), Verbose: true})
	if err != nil || strings.Count(r.Info["info"], `"outcome":"succeeded"`) != 1 {
		t.Errorf("the runtime tells %s (%v)", r.GetInfo()["info"], err)
	}
}
