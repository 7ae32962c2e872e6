package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
	"github.com/cri-pouch/cri-pouch/integration/harness"
	"github.com/cri-pouch/cri-pouch/internal/hookrun"
)

// hostHooks is a node with a folder of hooks and a program that notes what it sees.
type hostHooks struct {
	*harness.Node
	dir, first string // hooks_dirs: first, dir
	log        string
	read       int // bytes of the log that notes has given
	program    string
}

// withHooks gives a node whose second folder of hooks is there and whose first one is not.
func withHooks(t *testing.T, options ...harness.Option) *hostHooks {
	t.Helper()
	top := t.TempDir()
	h := &hostHooks{dir: filepath.Join(top, "late.d"), first: filepath.Join(top, "early", "hooks.d"), log: filepath.Join(top, "log"), program: filepath.Join(top, "note")}
	if err := os.Mkdir(h.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	h.write(t, h.program, 0o755, fmt.Sprintf(`#!/bin/sh
state=$(cat)
echo "{\"said\": \"$1\", \"mnt\": \"$(readlink /proc/self/ns/mnt)\", \"net\": \"$(readlink /proc/self/ns/net)\", \"env\": \"$(env | grep -v ^PWD= | tr '\n' ' ')\", \"fds\": \"$(ls /proc/self/fd | tr '\n' ' ')\", \"state\": $state}" >> %s
`, h.log))
	h.Node = harness.Start(t, append(options, harness.Config(fmt.Sprintf("[hooks]\nhooks_dirs = [%q, %q]\n", h.first, h.dir)))...)
	return h
}

func (h *hostHooks) write(t *testing.T, path string, mode os.FileMode, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path+".new", mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// always is the condition of hooks that are for every container.
const always = `{"always": true}`

// declaration is the text of a file.
func declaration(when string, path string, args []string, stages ...string) string {
	hook := map[string]any{"path": path, "args": append([]string{filepath.Base(path)}, args...), "env": []string{"OWN=1"}}
	b, err := json.Marshal(map[string]any{"version": "1.0.0", "hook": hook, "when": json.RawMessage(when), "stages": stages})
	if err != nil {
		panic(err)
	}
	return string(b)
}

// declare writes a file of hooks and waits until the daemon knows it.
func (h *hostHooks) declare(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join(h.dir, name)
	h.write(t, path, 0o644, text)
	h.await(t, path, func(f *pouchv1.HookFile) bool { return f != nil })
}

// await waits until a file is listed as wanted; nil: it is not listed.
func (h *hostHooks) await(t *testing.T, path string, wanted func(*pouchv1.HookFile) bool) {
	t.Helper()
	harness.Eventually(t, "the daemon has read "+path, func() bool {
		files := h.files(t)
		i := slices.IndexFunc(files, func(f *pouchv1.HookFile) bool { return f.File == path })
		if i < 0 {
			return wanted(nil)
		}
		return wanted(files[i])
	})
}

func (h *hostHooks) files(t *testing.T) []*pouchv1.HookFile {
	t.Helper()
	r, err := h.Daemon.Pouch.ListHooks(harness.Context(t), &pouchv1.ListHooksRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return r.Files
}

// noted is one run of the program.
type noted struct {
	Said, Mnt, Net, Env, Fds string
	State                    specs.State
}

// notes gives what the program has written since the last call. The file stays: one that was removed after the look would take
// with it what came between.
func (h *hostHooks) notes(t *testing.T) []noted {
	t.Helper()
	b, err := os.ReadFile(h.log)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	b = b[h.read : bytes.LastIndexByte(b, '\n')+1] // a last line is complete with its end
	h.read += len(b)
	var all []noted
	for line := range strings.Lines(string(b)) {
		var n noted
		if err := json.Unmarshal([]byte(line), &n); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		all = append(all, n)
	}
	return all
}

func said(all []noted) (words []string) {
	for _, n := range all {
		words = append(words, n.Said)
	}
	return words
}

func ownNamespace(t *testing.T, kind string) string {
	t.Helper()
	link, err := os.Readlink("/proc/self/ns/" + kind)
	if err != nil {
		t.Fatal(err)
	}
	return link
}

func TestNodeHooksRunInTheOrderAndNamespacesOfTheSpecification(t *testing.T) {
	h := withHooks(t)
	stages := []string{"prestart", "createRuntime", "createContainer", "poststart", "poststop"}
	for _, stage := range stages { // two files a stage, whose order is their names'
		h.declare(t, "10-"+stage+".json", declaration(always, h.program, []string{stage}, stage))
		h.declare(t, "20-"+stage+".json", declaration(always, h.program, []string{stage + "-again"}, stage))
	}
	h.declare(t, "15-inside.json", declaration(always, "/bin/sh", []string{"-c", `{ cat; echo; tr '\0' ' ' < /proc/self/environ; echo; ls /proc/self/fd | tr '\n' ' '; echo; id -u; } > /seen`}, "startContainer"))
	p := h.RunPod(t, func(c *runtime.PodSandboxConfig) {
		c.Annotations = map[string]string{"example.com/of": "pod", "bundle": "/evil", "io.kubernetes.cri.sandbox-namespace": "evil"}
	})
	c := p.Run(t, "app", harness.Sh("cat /seen; exec sleep 1000000"), func(c *runtime.ContainerConfig) {
		c.Annotations = map[string]string{"example.com/of": "container", "example.com/is": "a=b"}
		c.Linux.SecurityContext.RunAsUser = &runtime.Int64Value{Value: 0}
	})
	harness.Eventually(t, "the program has begun", func() bool { return strings.Count(c.LogText(t), "\n") >= 4 })
	pid := pidOf(t, c)
	checkInside(t, c)
	begun := h.notes(t)
	if want := []string{"prestart", "prestart-again", "createRuntime", "createRuntime-again", "createContainer", "createContainer-again", "poststart", "poststart-again"}; !slices.Equal(said(begun), want) {
		t.Errorf("%q, want %q", said(begun), want)
	}
	c.Stop(t, 0)
	c.Remove(t)
	ended := h.notes(t)
	if want := []string{"poststop", "poststop-again"}; !slices.Equal(said(ended), want) {
		t.Errorf("%q, want %q", said(ended), want)
	}
	want := map[string]specs.ContainerState{
		"prestart": specs.StateCreating, "createRuntime": specs.StateCreating, "createContainer": specs.StateCreating, "poststart": specs.StateRunning, "poststop": specs.StateStopped,
	}
	for _, n := range append(begun, ended...) {
		stage := strings.TrimSuffix(n.Said, "-again")
		inside := stage == "createContainer"
		if (n.Mnt != ownNamespace(t, "mnt")) != inside || (n.Net != ownNamespace(t, "net")) != inside {
			t.Errorf("%s sees %s, %s; the host has %s, %s", n.Said, n.Mnt, n.Net, ownNamespace(t, "mnt"), ownNamespace(t, "net"))
		}
		if n.Env != "OWN=1 " || n.Fds != "0 1 2 3 " { // 3 is the folder
			t.Errorf("%s has environment %q, descriptors %q", n.Said, n.Env, n.Fds)
		}
		checkState(t, n.Said, n.State, c, want[stage])
		switch stage {
		case "createContainer":
			if n.State.Pid != 1 {
				t.Errorf("%s: pid %d, want the container's", n.Said, n.State.Pid)
			}
		case "poststop":
			if n.State.Pid != 0 {
				t.Errorf("%s: pid %d", n.Said, n.State.Pid)
			}
		default:
			if n.State.Pid != pid {
				t.Errorf("%s: pid %d, want %d", n.Said, n.State.Pid, pid)
			}
		}
	}
}

// checkState compares what every stage has to read on stdin.
func checkState(t *testing.T, what string, s specs.State, c *harness.Container, status specs.ContainerState) {
	t.Helper()
	if s.Version != specs.Version || s.ID != c.ID || s.Status != status || filepath.Base(s.Bundle) != c.ID {
		t.Errorf("%s reads %+v", what, s)
	}
	for key, value := range map[string]string{
		"example.com/of": "container", "example.com/is": "a=b", "io.kubernetes.cri.sandbox-namespace": "lab", "io.kubernetes.cri.container-name": "app",
	} {
		if s.Annotations[key] != value {
			t.Errorf("%s: annotation %s is %q, want %q", what, key, s.Annotations[key], value)
		}
	}
}

// checkInside looks at what the startContainer hook has left in the container.
func checkInside(t *testing.T, c *harness.Container) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(c.LogText(t)), "\n")
	if len(lines) != 4 {
		t.Fatalf("%q", lines)
	}
	var s specs.State
	if err := json.Unmarshal([]byte(lines[0]), &s); err != nil {
		t.Fatalf("%v: %s", err, lines[0])
	}
	checkState(t, "startContainer", s, c, specs.StateCreated)
	if s.Pid != 1 {
		t.Errorf("pid %d, want the container's", s.Pid)
	}
	if lines[1] != "OWN=1 HOME=/root " || lines[2] != "0 1 2 3 " || lines[3] != "0" {
		t.Errorf("%q", lines[1:])
	}
}

// pidOf gives the pid of a container's first process.
func pidOf(t *testing.T, c *harness.Container) int { t.Helper(); return infoOf(t, c).PID }

// info is some of what a verbose status says.
type info struct {
	PID       int
	NodeHooks []hookrun.Result
}

func infoOf(t *testing.T, c *harness.Container) (i info) {
	t.Helper()
	r, err := c.Pod.Node.Daemon.Runtime.ContainerStatus(harness.Context(t), &runtime.ContainerStatusRequest{ContainerId: c.ID, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(r.Info["info"]), &i); err != nil {
		t.Fatal(err)
	}
	return i
}

func isNone(f *pouchv1.HookFile) bool { return f == nil }
