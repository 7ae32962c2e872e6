package kubelet

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func TestProbes(t *testing.T) {
	t.Parallel()
	n := start(t)
	command := func(script string) corev1.ProbeHandler {
		return corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", script}}}
	}
	web := corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/version", Port: intstr.FromInt32(meterPort)}}
	port := corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(meterPort)}}
	// Each becomes ready by its probe: the script makes what the probe looks for after the container has started.
	for name, c := range map[string]struct {
		handler corev1.ProbeHandler
		script  string
	}{
		"exec": {command("test -e /tmp/ready"), "sleep 1; touch /tmp/ready; sleep infinity"},
		"http": {web, "sleep 1; " + serving},
		"tcp":  {port, "sleep 1; " + serving},
	} {
		t.Run(name+" makes ready and unready", func(t *testing.T) {
			t.Parallel()
			app := sh("app", app1, c.script)
			app.StartupProbe = &corev1.Probe{ProbeHandler: c.handler, PeriodSeconds: 1, FailureThreshold: 30}
			app.ReadinessProbe = &corev1.Probe{ProbeHandler: c.handler, PeriodSeconds: 1, FailureThreshold: 1}
			p := n.run(t, podOf("probe-"+name, []corev1.Container{app}))
			if s := statusOf(p.get(t), "app"); s.RestartCount != 0 || s.Started == nil || !*s.Started {
				t.Errorf("status: %+v", s)
			}
		})
	}
	t.Run("liveness restarts", func(t *testing.T) {
		t.Parallel()
		app := sh("app", app1, "touch /tmp/alive; sleep infinity")
		app.LivenessProbe = &corev1.Probe{ProbeHandler: command("test -e /tmp/alive"), PeriodSeconds: 1, FailureThreshold: 1, InitialDelaySeconds: 1}
		p := n.run(t, podOf("liveness", []corev1.Container{app, sh("other", app1, "sleep infinity")}))
		before := p.look(t, "app")
		p.inside(t, "app", "rm /tmp/alive")
		p.await(t, "the container is restarted", func(now *corev1.Pod) bool {
			s := statusOf(now, "app")
			return s.RestartCount == 1 && s.State.Running != nil
		})
		before.sameBut(t, p.look(t, "app"))
	})
	t.Run("a slow probe command is ended", func(t *testing.T) {
		t.Parallel()
		app := sh("app", app1, "sleep infinity")
		app.ReadinessProbe = &corev1.Probe{ProbeHandler: command("test -e /tmp/quick || sleep 600"), PeriodSeconds: 1, TimeoutSeconds: 1, FailureThreshold: 1}
		p := n.create(t, podOf("slow-probe", []corev1.Container{app}))
		p.await(t, "the container runs", func(now *corev1.Pod) bool { return statusOf(now, "app").State.Running != nil })
		n.awaitEvent(t, p, "Unhealthy", "timed out")
		p.inside(t, "app", "touch /tmp/quick")
		p.awaitReady(t)
		if got := p.inside(t, "app", "ps -o args"); strings.Contains(got, "sleep 600") {
			t.Errorf("a probe's command is left:\n%s", got)
		}
	})
}

// The kubelet asks the pod's address; a pod on the host network has the node's, where this test serves.
func TestGRPCProbe(t *testing.T) {
	t.Parallel()
	n := start(t)
	l, err := net.Listen("tcp", net.JoinHostPort(n.IP.String(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	server, state := grpc.NewServer(), health.NewServer()
	grpc_health_v1.RegisterHealthServer(server, state)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	app := sh("app", app1, "sleep infinity")
	app.ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, FailureThreshold: 1,
		ProbeHandler: corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: int32(l.Addr().(*net.TCPAddr).Port)}}}
	p := n.run(t, podOf("grpc", []corev1.Container{app}, func(p *corev1.Pod) { p.Spec.HostNetwork = true }))
	state.SetServingStatus("", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	p.await(t, "the pod is not Ready", func(now *corev1.Pod) bool { return !isReady(now) })
}

func TestHooks(t *testing.T) {
	t.Parallel()
	n := start(t)
	host := t.TempDir()
	app := sh("app", app1, "sleep infinity")
	app.VolumeMounts = []corev1.VolumeMount{{Name: "host", MountPath: "/host"}}
	app.Lifecycle = &corev1.Lifecycle{
		PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", "cat /version > /host/post-start"}}},
		PreStop:   &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", "cat /version > /host/pre-stop"}}},
	}
	p := n.run(t, podOf("hooks", []corev1.Container{app}, func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: host}}}}
	}))
	expect := func(file, want string) {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(host, file))
		if err != nil || strings.TrimSpace(string(b)) != want {
			t.Errorf("%s holds %q (%v), want %q", file, b, err, want)
		}
	}
	expect("post-start", "1")
	p.setImage(t, "app", app2)
	p.awaitImage(t, "app", app2)
	expect("pre-stop", "1") // of the container that went
	expect("post-start", "2")
	p.remove(t)
	expect("pre-stop", "2")
}

func TestInitContainersRunOneAfterAnother(t *testing.T) {
	t.Parallel()
	n := start(t)
	note := []corev1.VolumeMount{{Name: "notes", MountPath: "/notes"}}
	always := corev1.ContainerRestartPolicyAlways
	p := n.run(t, podOf("init", []corev1.Container{sh("app", app1, "echo app >> /notes/order; sleep infinity")}, func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "notes"}}
		sidecar := sh("sidecar", app1, "echo sidecar >> /notes/order; touch /tmp/up; sleep infinity")
		sidecar.RestartPolicy = &always
		sidecar.StartupProbe = &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"test", "-e", "/tmp/up"}}}}
		p.Spec.InitContainers = []corev1.Container{sh("first", app1, "echo first >> /notes/order"), sidecar, sh("last", app1, "echo last >> /notes/order")}
		for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
			for i := range list {
				list[i].VolumeMounts = note
			}
		}
	}))
	if got := p.inside(t, "app", "tr '\\n' ' ' < /notes/order"); got != "first sidecar last app" {
		t.Errorf("order: %s", got)
	}
	for name, reason := range map[string]string{"first": "Completed", "last": "Completed"} {
		if s := statusOf(p.get(t), name); s.State.Terminated == nil || s.State.Terminated.Reason != reason || s.RestartCount != 0 {
			t.Errorf("%s: %+v", name, s)
		}
	}
}

func TestRestartPolicies(t *testing.T) {
	t.Parallel()
	n := start(t)
	// The second try finds what the first one left.
	second := "test -e /notes/tried || { touch /notes/tried; exit 3; }; "
	for _, c := range []struct {
		policy   corev1.RestartPolicy
		script   string
		phase    corev1.PodPhase
		restarts int32
		code     int32
	}{
		{corev1.RestartPolicyNever, "exit 0", corev1.PodSucceeded, 0, 0},
		{corev1.RestartPolicyNever, second, corev1.PodFailed, 0, 3},
		{corev1.RestartPolicyOnFailure, second + "exit 0", corev1.PodSucceeded, 1, 0},
		{corev1.RestartPolicyAlways, second + "sleep infinity", corev1.PodRunning, 1, 3},
	} {
		t.Run(fmt.Sprintf("%s %s", c.policy, c.phase), func(t *testing.T) {
			t.Parallel()
			app := sh("app", app1, c.script)
			app.VolumeMounts = []corev1.VolumeMount{{Name: "notes", MountPath: "/notes"}}
			p := n.create(t, podOf("policy", []corev1.Container{app}, func(p *corev1.Pod) {
				p.Spec.RestartPolicy = c.policy
				p.Spec.Volumes = []corev1.Volume{{Name: "notes"}}
			}))
			now := p.await(t, "the pod is "+string(c.phase), func(now *corev1.Pod) bool {
				s := statusOf(now, "app")
				return now.Status.Phase == c.phase && s.RestartCount == c.restarts && (s.State.Terminated != nil || s.State.Running != nil)
			})
			s := statusOf(now, "app")
			ended := s.State.Terminated
			if c.phase == corev1.PodRunning {
				ended = s.LastTerminationState.Terminated
			}
			if ended == nil || ended.ExitCode != c.code {
				t.Errorf("ended: %+v, want exit code %d", ended, c.code)
			}
		})
	}
}

func TestTerminationMessages(t *testing.T) {
	t.Parallel()
	n := start(t)
	file := sh("file", app1, "echo noise; echo -n from the file > /note; exit 1")
	file.TerminationMessagePath = "/note"
	log := sh("log", app1, "echo -n from the log; exit 1")
	log.TerminationMessagePolicy = corev1.TerminationMessageFallbackToLogsOnError
	p := n.create(t, podOf("message", []corev1.Container{file, log}, func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever }))
	now := p.await(t, "the pod has failed", func(now *corev1.Pod) bool { return now.Status.Phase == corev1.PodFailed })
	for _, name := range []string{"file", "log"} {
		s := statusOf(now, name).State.Terminated
		// A log has whole lines.
		if s == nil || strings.TrimSuffix(s.Message, "\n") != "from the "+name || s.ExitCode != 1 || s.Reason != "Error" {
			t.Errorf("%s: %+v", name, s)
		}
	}
}

func TestContainerOutOfMemoryIsOOMKilled(t *testing.T) {
	t.Parallel()
	n := start(t)
	hog := withLimits(sh("hog", app1, "tail /dev/zero"), "", "24Mi")
	p := n.create(t, podOf("hog", []corev1.Container{hog, sh("other", app1, "sleep infinity")}, func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever }))
	now := p.await(t, "the hog has ended", func(now *corev1.Pod) bool { return statusOf(now, "hog").State.Terminated != nil })
	if s := statusOf(now, "hog").State.Terminated; s.Reason != "OOMKilled" || s.ExitCode != 137 {
		t.Errorf("the hog: %+v", s)
	}
	if s := statusOf(p.get(t), "other"); s.State.Running == nil {
		t.Errorf("the other container: %+v", s.State)
	}
}
