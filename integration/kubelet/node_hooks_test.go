package kubelet

import (
	"encoding/json"
	"fmt"
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
		text, err := json.Marshal(map[string]any{
			"version": "1.0.0", "stages": []string{stage},
			"hook": map[string]any{"path": program, "args": []string{"program", stage}, "env": []string{"PATH=/usr/bin:/bin"}},
			"when": map[string]any{"annotations": map[string]string{"^device\\.example\\.com/kind$": "^" + ofKind + "$"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(shared.hooks, ofKind+"-"+stage+".json")
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
