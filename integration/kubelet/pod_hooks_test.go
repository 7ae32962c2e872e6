package kubelet

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// podHook is a hook of a pod that runs a script.
func podHook(t testing.TB, stage, script, timeout string) func(*corev1.Pod) {
	t.Helper()
	text, err := json.Marshal([]map[string]any{{"name": "hook", "exec": []string{"sh", "-c", script}, "timeout": timeout}})
	if err != nil {
		t.Fatal(err)
	}
	return func(p *corev1.Pod) {
		if p.Annotations == nil {
			p.Annotations = map[string]string{}
		}
		p.Annotations["hooks.cri-pouch.io/"+stage] = string(text)
	}
}

// hookedPod has one container that sees a folder of the host at /host.
func hookedPod(dir, script string, edits ...func(*corev1.Pod)) *corev1.Pod {
	app := sh("app", app1, script)
	app.VolumeMounts = []corev1.VolumeMount{{Name: "host", MountPath: "/host"}}
	return podOf("pod-hooks", []corev1.Container{app}, append(edits, func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir}}}}
	})...)
}

// A prestart hook that fails is an event of the pod, with its name and what it said, and the kubelet tries again.
func TestAFailingPrestartHookIsSeenInThePod(t *testing.T) {
	t.Parallel()
	n := start(t)
	dir := t.TempDir()
	p := n.create(t, hookedPod(dir, "echo up; sleep infinity",
		podHook(t, "prestart", "[ -e /host/tried ] || { touch /host/tried; echo the reason why; exit 9; }", "20s"), podHook(t, "poststop", "touch /host/cleaned", "5s")))
	n.awaitEvent(t, p, "Failed", `prestart hook "hook" failed with exit code 9: the reason why`)
	now := p.awaitReady(t)
	s := statusOf(now, "app")
	if s.RestartCount != 1 || s.LastTerminationState.Terminated == nil {
		t.Fatalf("the status: %+v", s)
	}
	if last := s.LastTerminationState.Terminated; last.ExitCode != 128 || last.Reason != "StartError" || !strings.Contains(last.Message, "the reason why") {
		t.Errorf("the first attempt: %+v", last)
	}
	if _, err := os.Stat(filepath.Join(dir, "cleaned")); err == nil {
		t.Error("a poststop hook ran for a program that never did")
	}
}

// An edited image: the old container's poststop hook is done before the new one's prestart hook, which knows of the upgrade.
func TestHooksOfAnEditedImageRunInOrder(t *testing.T) {
	t.Parallel()
	n := start(t)
	dir := t.TempDir()
	p := n.run(t, hookedPod(dir, "echo version $(cat /version) >>/host/order; sleep infinity",
		podHook(t, "prestart", `echo "prestart $POUCH_ATTEMPT ${POUCH_UPGRADE-0} ${POUCH_OLD_IMAGE##*:} ${POUCH_NEW_IMAGE##*:}" >>/host/order`, "20s"),
		podHook(t, "poststop", `sleep 2; echo "poststop $POUCH_ATTEMPT $POUCH_REASON" >>/host/order`, "20s")))
	p.setImage(t, "app", app2)
	p.awaitImage(t, "app", app2)
	p.remove(t)
	want := "prestart 0 0  \nversion 1\npoststop 0 Killed\nprestart 1 1 " + tagOf(app1) + " " + tagOf(app2) + "\nversion 2\npoststop 1 Killed\n"
	if got, err := os.ReadFile(filepath.Join(dir, "order")); err != nil || string(got) != want {
		t.Errorf("the order was %q, %v, want %q", got, err, want)
	}
}

func tagOf(ref string) string { return ref[strings.LastIndexByte(ref, ':')+1:] }

// The kubelet stops a deleted pod when it has the answer to a start in progress: what the hooks then see is a whole life.
func TestAPodIsDeletedWhileItsPrestartHookRuns(t *testing.T) {
	t.Parallel()
	n := start(t)
	dir := t.TempDir()
	p := n.create(t, hookedPod(dir, "echo ran >>/host/order; sleep infinity",
		podHook(t, "prestart", "touch /host/begun; sleep 5; echo prestart >>/host/order", "60s"), podHook(t, "poststop", "echo poststop $POUCH_REASON >>/host/order", "20s")))
	for begin := time.Now(); ; time.Sleep(50 * time.Millisecond) { // nothing of a container that is being started is in the pod's status
		if _, err := os.Stat(filepath.Join(dir, "begun")); err == nil {
			break
		}
		if time.Since(begin) > patience {
			t.Fatal("the hook does not run")
		}
	}
	p.remove(t)
	got, err := os.ReadFile(filepath.Join(dir, "order"))
	// On a busy machine the program gets nothing done in its grace of a second.
	if err != nil || strings.Replace(string(got), "ran\n", "", 1) != "prestart\npoststop Killed\n" {
		t.Errorf("the order was %q, %v", got, err)
	}
}
