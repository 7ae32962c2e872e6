package kubelet

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"

	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
)

// kindAnnotation is what the declared hooks of the node look for in a pod.
const kindAnnotation = "device.example.com/kind"

// kind annotates a pod, and claims to be another's.
func kind(value string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Annotations = map[string]string{kindAnnotation: value, "io.kubernetes.cri.sandbox-name": "another"}
	}
}

// declare puts a program and the file that declares it as hook of the node for pods of that kind, and waits until the daemon
// knows it. The program reads the state on stdin; it has the stage as its argument.
func (n *node) declare(t testing.TB, ofKind, script string, stages ...string) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, stage := range stages {
		n.declareFor(t, ofKind, stage, stage, nil, program, stage)
	}
}

// declareFor puts a file that declares one hook of the node for pods of a kind, and whatever else when says, and waits until the
// daemon knows it.
func (n *node) declareFor(t testing.TB, ofKind, name, stage string, when map[string]any, program string, args ...string) {
	t.Helper()
	conditions := map[string]any{"annotations": map[string]string{"^device\\.example\\.com/kind$": "^" + ofKind + "$"}}
	maps.Copy(conditions, when)
	text, err := json.Marshal(map[string]any{
		"version": "1.0.0", "stages": []string{stage}, "when": conditions,
		"hook": map[string]any{"path": program, "args": append([]string{filepath.Base(program)}, args...), "env": []string{"PATH=/usr/bin:/bin"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(shared.hooks, ofKind+"-"+name+".json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(file) })
	for ctx := limited(t); ; time.Sleep(20 * time.Millisecond) { // the daemon tells nobody that it has read it
		r, err := n.Lab.Daemon.Pouch.ListHooks(ctx, &pouchv1.ListHooksRequest{})
		if err != nil {
			t.Fatalf("%s is not listed: %v", file, err)
		}
		if slices.ContainsFunc(r.Files, func(f *pouchv1.HookFile) bool { return f.File == file && f.Error == "" }) {
			break
		}
	}
}

// A hook of the node is run for the pods it is for, before and after each of their containers, and knows whose they are. A
// pod's author cannot lie about that.
func TestNodeHooksOfPods(t *testing.T) {
	t.Parallel()
	n := start(t)
	notes := t.TempDir()
	n.declare(t, "fpga", fmt.Sprintf("cat >%s/$(date +%%s%%N)-$1.json", notes), "createRuntime", "poststop")
	p := n.run(t, podOf("device", []corev1.Container{sh("web", app1, "sleep infinity")}, kind("fpga")))
	other := n.run(t, podOf("no-device", []corev1.Container{sh("web", app1, "sleep infinity")}, kind("gpu")))
	first := idOf(statusOf(p.get(t), "web"))
	p.setImage(t, "web", app2)
	p.awaitImage(t, "web", app2)
	second := idOf(statusOf(p.get(t), "web"))
	p.remove(t)
	other.remove(t)
	files, err := filepath.Glob(notes + "/*.json")
	if err != nil {
		t.Fatal(err)
	}
	var story []string
	for _, file := range files { // in the order of time
		text, err := os.ReadFile(file)
		var state specs.State
		if err == nil {
			err = json.Unmarshal(text, &state)
		}
		if err != nil {
			t.Fatalf("%s: %v: %s", file, err, text)
		}
		_, stage, _ := strings.Cut(strings.TrimSuffix(filepath.Base(file), ".json"), "-")
		story = append(story, stage+" "+state.ID)
		a := state.Annotations
		whose := []string{a["io.kubernetes.cri.sandbox-namespace"], a["io.kubernetes.cri.sandbox-name"], a["io.kubernetes.cri.container-name"], a[kindAnnotation]}
		if want := []string{p.namespace, p.name, "web", "fpga"}; !slices.Equal(whose, want) {
			t.Errorf("%s was told %q, wanted %q", stage, whose, want)
		}
	}
	if want := []string{"createRuntime " + first, "poststop " + first, "createRuntime " + second, "poststop " + second}; !slices.Equal(story, want) {
		t.Errorf("the hooks were run as %q, wanted %q", story, want)
	}
}

// Whoever looks at the pod learns which file's hook keeps it from starting; once the hook succeeds the kubelet's next try does.
func TestAFailingNodeHookShowsInThePodsStatus(t *testing.T) {
	t.Parallel()
	n := start(t)
	ready := filepath.Join(t.TempDir(), "ready")
	n.declare(t, "late", fmt.Sprintf("[ -e %s ] || { echo the device is not ready >&2; exit 5; }", ready), "createRuntime")
	p := n.create(t, podOf("late-device", []corev1.Container{sh("web", app1, "sleep infinity")}, kind("late")))
	words := []string{"late-createRuntime.json", "exit code 5", "the device is not ready"}
	now := p.await(t, "a try has failed", func(now *corev1.Pod) bool { return statusOf(now, "web").LastTerminationState.Terminated != nil })
	for _, part := range words {
		if s := statusOf(now, "web").LastTerminationState.Terminated; s.ExitCode != 128 || s.Reason != "StartError" || !strings.Contains(s.Message, part) {
			t.Errorf("the try ended as %+v, without %q", s, part)
		}
	}
	n.awaitEvent(t, p, "Failed", words[2])
	if err := os.WriteFile(ready, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p.awaitReady(t)
}

// Hooks of the node can be for what a container runs, which is init and application of a rich one, or for those that mount
// something, as the kubelet has each do. All stages of a start come in their order.
func TestNodeHooksMatchWhatAPodRuns(t *testing.T) {
	t.Parallel()
	n := startRich(t)
	story := filepath.Join(t.TempDir(), "story")
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, fmt.Appendf(nil, "#!/bin/sh\necho $1 >>%s\n", story), 0o700); err != nil {
		t.Fatal(err)
	}
	commands := func(pattern string) map[string]any { return map[string]any{"commands": []string{pattern}} }
	for _, stage := range []string{"prestart", "createContainer", "poststart"} {
		n.declareFor(t, "staged", stage, stage, commands("/init$"), program, stage)
	}
	n.declareFor(t, "staged", "application", "createRuntime", commands("^sh$"), program, "of the application")
	n.declareFor(t, "staged", "neither", "createRuntime", commands("^httpd$"), program, "never")
	n.declareFor(t, "staged", "mounts", "startContainer", map[string]any{"hasBindMounts": true}, "/bin/sh", "-c", "cat /proc/1/comm >/witness/inside")
	for name, test := range map[string]struct {
		image string
		edit  func(*corev1.Pod)
		want  string
	}{
		"rich":  {busybox1, richAnnotations("mode", "sbin-init"), "prestart\nof the application\ncreateContainer\npoststart\n"},
		"plain": {app1, func(*corev1.Pod) {}, "of the application\n"},
	} {
		if err := os.RemoveAll(story); err != nil {
			t.Fatal(err)
		}
		spec := podOf("staged-"+name, []corev1.Container{sh("web", test.image, richApp)}, kind("staged"), test.edit)
		witness := witnessed(t, spec)
		n.run(t, spec)
		if got := awaitFile(t, filepath.Join(witness, "inside")); !strings.HasPrefix(got, "runc") {
			t.Errorf("%s: pid 1 was %s already when the startContainer hook ran", name, got)
		}
		if b, err := os.ReadFile(story); err != nil || string(b) != test.want {
			t.Errorf("%s: hooks ran as %q, want %q (%v)", name, b, test.want, err)
		}
	}
}
