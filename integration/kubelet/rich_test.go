package kubelet

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/client-go/util/exec"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-pouch/cri-pouch/integration/kubelet/cluster"
)

// richApp serves its image's /version like a program that knows nothing of an init. SIGTERM ends it with 7, SIGUSR1 with 3.
// (The API server makes one dollar of two.)
const richApp = `echo "version $(cat /version)"; echo trouble >&2; echo $$$$ >/tmp/app.pid; touch /tmp/alive
end() { echo "ended by $1" >/dev/termination-log; [ -d /witness ] && touch /witness/asked; exit $2; }
trap 'end TERM 7' TERM; trap 'end USR1 3' USR1
busybox httpd -f -p 8080 -h / & wait $!`

// richMachine is an image with the mode that it is for.
type richMachine struct {
	image, mode string
	init        string // the name of pid 1's process
	services    bool   // there is one that sees the shutdown
}

var richMachines = []richMachine{
	{systemd1, "systemd", "systemd", true},
	{busybox1, "sbin-init", "init", true},
	{dumb1, "dumb-init", "dumb-init", false},
}

// A rich container under the kubelet is what a plain one is: probes, logs, exec, exit codes, restarts and the end of its pod.
func TestRichPods(t *testing.T) {
	t.Parallel()
	n := startRich(t)
	for _, m := range richMachines {
		t.Run(m.mode, func(t *testing.T) {
			t.Parallel()
			t.Run("lives like a plain one", func(t *testing.T) { t.Parallel(); richPodLives(t, n, m) })
			t.Run("ends like a plain one", func(t *testing.T) { t.Parallel(); richPodEnds(t, n, m) })
		})
	}
}

func richPodLives(t *testing.T, n *node, m richMachine) {
	command := func(argv ...string) corev1.ProbeHandler {
		return corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: argv}}
	}
	web := sh("web", m.image, richApp)
	web.StartupProbe = &corev1.Probe{PeriodSeconds: 1, FailureThreshold: 60, ProbeHandler: command("test", "-e", "/tmp/alive")}
	web.ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/version", Port: intstr.FromInt32(meterPort)}}}
	web.LivenessProbe = &corev1.Probe{PeriodSeconds: 1, FailureThreshold: 1, TimeoutSeconds: 10, ProbeHandler: command("test", "!", "-e", "/tmp/sick")}
	web.Env = []corev1.EnvVar{{Name: "GREETING", Value: `it's "$HOME" = %n`}}
	spec := podOf("rich-"+m.mode, []corev1.Container{web, sh("plain", app1, "sleep infinity")}, richAnnotations("mode.web", m.mode))
	grace := int64(20)
	spec.Spec.TerminationGracePeriodSeconds = &grace
	witness := witnessed(t, spec)
	p := n.run(t, spec)
	if got := p.inside(t, "web", "cat /proc/1/comm"); got != m.init {
		t.Errorf("pid 1 is %s, want %s", got, m.init)
	}
	if got := p.inside(t, "plain", "cat /proc/1/comm"); got == m.init {
		t.Errorf("pid 1 of the plain container is %s", got)
	}
	// stdout and stderr of the application and nothing else.
	p.awaitLog(t, "web", "trouble")
	p.awaitLog(t, "web", "version 1")
	if got := p.logLines(t, "web", 0); fmt.Sprintf("%q", got) != `["stderr F trouble" "stdout F version 1"]` {
		t.Errorf("the log has %q", got)
	}
	var stdout, stderr bytes.Buffer
	err := p.stream(limited(t), "WebSocket", "exec", &corev1.PodExecOptions{
		Container: "web", Command: []string{"sh", "-c", `echo "$GREETING"; cat; echo problem >&2; exit 9`}, Stdin: true, Stdout: true, Stderr: true,
	}, remotecommand.StreamOptions{Stdin: strings.NewReader("typed\n"), Stdout: &stdout, Stderr: &stderr})
	var exit utilexec.ExitError
	if !errors.As(err, &exit) || exit.ExitStatus() != 9 || stdout.String() != web.Env[0].Value+"\ntyped\n" || stderr.String() != "problem\n" {
		t.Errorf("exec ends with %v, stdout %q, stderr %q", err, stdout.String(), stderr.String())
	}
	p.restartsWith(t, "the liveness probe fails", func() { p.inside(t, "web", "touch /tmp/sick") }, 7, "ended by TERM\n")
	p.restartsWith(t, "the application ends by itself", func() { p.endApp(t, "web") }, 3, "ended by USR1\n")
	for _, file := range []string{"asked", "stopped"} {
		if err := os.Remove(filepath.Join(witness, file)); err != nil && (file == "asked" || m.services) {
			t.Error(err)
		}
	}
	begin := time.Now()
	p.removeWithin(t, grace)
	if took := time.Since(begin); took > 15*time.Second {
		t.Errorf("with a grace of %d s the deletion took %s", grace, took)
	}
	for _, file := range []string{"asked", "stopped"} {
		if _, err := os.Stat(filepath.Join(witness, file)); err != nil && (file == "asked" || m.services) {
			t.Errorf("at the pod's deletion: %v", err)
		}
	}
}

// logLines gives the lines of a container's log file without their times, in the alphabet's order.
func (p *pod) logLines(t testing.TB, container string, attempt int) (lines []string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(p.n.Lab.LogDir(), fmt.Sprintf("%s_%s_%s", p.namespace, p.name, p.uid), container, fmt.Sprintf("%d.log", attempt)))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		_, line, _ = strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return lines
}

// endApp sends SIGUSR1 to the application richApp of a container.
func (p *pod) endApp(t testing.TB, container string) {
	t.Helper()
	r, err := p.n.Lab.Daemon.Runtime.ExecSync(limited(t), &runtime.ExecSyncRequest{
		ContainerId: idOf(statusOf(p.get(t), container)), Cmd: []string{"sh", "-c", "kill -USR1 $(cat /tmp/app.pid)"}, Timeout: 30})
	// The application's end may be the container's before the shell has ended.
	if err != nil || r.ExitCode != 0 && r.ExitCode != 137 {
		t.Fatalf("end the application of %s: %s%s (code %d, %v)", container, r.GetStdout(), r.GetStderr(), r.GetExitCode(), err)
	}
}

// restartsWith has the application of the container web ended, with a code and a termination message. It waits until the
// kubelet has started web again, and everything else must be as before.
func (p *pod) restartsWith(t *testing.T, why string, end func(), code int32, message string) {
	t.Helper()
	before := p.look(t, "web")
	end()
	now := p.await(t, "the container runs again after "+why, func(now *corev1.Pod) bool {
		s := statusOf(now, "web")
		return s.RestartCount == before.edited.RestartCount+1 && s.Ready
	})
	before.sameBut(t, p.look(t, "web"))
	if ended := statusOf(now, "web").LastTerminationState.Terminated; ended == nil || ended.ExitCode != code || ended.Reason != "Error" || ended.Message != message {
		t.Errorf("after %s the last state is %+v, want exit code %d and message %q", why, ended, code, message)
	}
}

// removeWithin deletes the pod with so many seconds of grace and waits until it is gone.
func (p *pod) removeWithin(t testing.TB, grace int64) {
	t.Helper()
	ctx := limited(t)
	if err := p.n.Client.CoreV1().Pods(p.namespace).Delete(ctx, p.name, metav1.DeleteOptions{GracePeriodSeconds: &grace}); err != nil {
		t.Fatal(err)
	}
	if err := cluster.AwaitGone(ctx, p.n.Client.CoreV1().RESTClient(), "pods", p.namespace, p.name); err != nil {
		t.Fatal(err)
	}
}

// With restartPolicy Never the pod has failed when its applications have ended, with their codes.
func richPodEnds(t *testing.T, n *node, m richMachine) {
	code := probe("code", m.image, "err=the reason", "exit=5")
	code.TerminationMessagePolicy = corev1.TerminationMessageFallbackToLogsOnError
	hog := withLimits(probe("hog", m.image, "grow"), "", "200Mi")
	p := n.create(t, podOf("ends-"+m.mode, []corev1.Container{code, hog}, richAnnotations("mode", m.mode), func(p *corev1.Pod) {
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
	}))
	now := p.await(t, "the pod has failed", func(now *corev1.Pod) bool { return now.Status.Phase == corev1.PodFailed })
	if s := statusOf(now, "code"); s.State.Terminated.ExitCode != 5 || s.State.Terminated.Reason != "Error" || s.State.Terminated.Message != "the reason\n" || s.RestartCount != 0 {
		t.Errorf("code: %+v", s.State.Terminated)
	}
	if s := statusOf(now, "hog"); s.State.Terminated.ExitCode != 137 || s.State.Terminated.Reason != "OOMKilled" {
		t.Errorf("hog: %+v", s.State.Terminated)
	}
}

// A service that is out of memory neither ends the application nor makes its later end look like that.
func TestAnOOMOfAServiceIsNotThePods(t *testing.T) {
	t.Parallel()
	n := startRich(t)
	web := withLimits(sh("web", systemd1, richApp), "", "256Mi")
	spec := podOf("hungry", []corev1.Container{web}, richAnnotations("mode", "systemd"), func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever })
	witness := witnessed(t, spec)
	p := n.run(t, spec)
	p.awaitLog(t, "web", "version 1")
	p.inside(t, "web", "systemctl start hungry")
	// An exec into a container that is out of memory would call for the next victim.
	if got := awaitFile(t, filepath.Join(witness, "result")); got != "signal" && got != "oom-kill" {
		t.Fatalf("the service ended with %s", got)
	}
	if s := statusOf(p.get(t), "web"); s.State.Running == nil || !s.Ready {
		t.Fatalf("after the service's end: %+v", s.State)
	}
	p.endApp(t, "web")
	now := p.await(t, "the pod has failed", func(now *corev1.Pod) bool { return now.Status.Phase == corev1.PodFailed })
	if s := statusOf(now, "web").State.Terminated; s.ExitCode != 3 || s.Reason != "Error" || s.Message != "ended by USR1\n" {
		t.Errorf("the application: %+v", s)
	}
}

// Limits are those of the init with all that runs below it.
func TestARichPodIsResizedInPlace(t *testing.T) {
	t.Parallel()
	n := startRich(t)
	p := n.run(t, podOf("resized", []corev1.Container{withLimits(sh("web", systemd1, richApp), "500m", "200Mi")}, richAnnotations("mode", "systemd")))
	p.awaitLog(t, "web", "version 1")
	if got := p.limit(t, "web", memoryFiles...); got != "209715200" {
		t.Errorf("memory limit: %s", got)
	}
	p.resize(t, "web", "750m", "300Mi")
	if got := p.limit(t, "web", memoryFiles...); got != "314572800" {
		t.Errorf("memory limit after the resize: %s", got)
	}
	if got := p.limit(t, "web", "cpu.max", "cpu.cfs_quota_us"); !strings.HasPrefix(got, "75000") { // of 100 ms, in µs
		t.Errorf("CPU limit after the resize: %s", got)
	}
	if got := p.inside(t, "web", "systemctl is-system-running --wait"); got != "running" {
		t.Errorf("the system is %s", got)
	}
}

// memoryFiles have the limit of memory in bytes, on cgroup v2 and v1.
var memoryFiles = []string{"memory.max", "memory.limit_in_bytes"}

// limit gives what one of the files of a container's cgroup has, as the node's kernel has it: an init sees a cgroup below.
func (p *pod) limit(t testing.TB, container string, files ...string) string {
	t.Helper()
	id := idOf(statusOf(p.get(t), container))
	dirs, err := p.n.Lab.Cgroups()
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		for _, file := range files {
			if b, err := os.ReadFile(filepath.Join(dir, file)); err == nil && filepath.Base(dir) == id {
				return strings.TrimSpace(string(b))
			}
		}
	}
	t.Fatalf("no cgroup of %s has %v: %v", id, files, dirs)
	return ""
}

// awaitFile waits until a file is there, and gives its text without spaces around it.
func awaitFile(t testing.TB, path string) string {
	t.Helper()
	for ctx := limited(t); ctx.Err() == nil; time.Sleep(20 * time.Millisecond) { // it is written by a container
		if b, err := os.ReadFile(path); err == nil {
			return strings.TrimSpace(string(b))
		}
	}
	t.Fatalf("%s never appeared", path)
	return ""
}
