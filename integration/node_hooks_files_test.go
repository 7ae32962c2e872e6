package integration

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
	"github.com/cri-pouch/cri-pouch/integration/harness"
)

func TestNodeHooksRunForTheContainersThatMatch(t *testing.T) {
	h := withHooks(t)
	for name, when := range map[string]string{
		"always":              always,
		"never":               `{"always": false}`,
		"pod's annotation":    `{"annotations": {"^example\\.com/of$": "^pod$"}}`,
		"own annotation":      `{"annotations": {"^example\\.com/is$": "^contain"}}`,
		"covered annotation":  `{"annotations": {"^example\\.com/both$": "pod"}}`,
		"half an annotation":  `{"annotations": {"^example\\.com/of$": "container"}}`,
		"command":             `{"commands": ["/nothing$", "^sleep$"]}`,
		"another command":     `{"commands": ["/nothing$"]}`,
		"mounts":              `{"hasBindMounts": true}`,
		"no mounts":           `{"hasBindMounts": false}`,
		"all that is given":   `{"always": true, "annotations": {"of$": "pod", "is$": "container"}, "commands": ["sleep"], "hasBindMounts": true}`,
		"not all of it":       `{"always": true, "annotations": {"of$": "pod", "is$": "nothing"}, "commands": ["sleep"]}`,
		"never, but commands": `{"always": false, "commands": ["sleep"]}`,
	} {
		h.declare(t, name+".json", declaration(when, h.program, []string{name}, "createRuntime"))
	}
	p := h.RunPod(t, func(c *runtime.PodSandboxConfig) {
		c.Annotations = map[string]string{"example.com/of": "pod", "example.com/both": "pod"}
	})
	p.Run(t, "bare", harness.Command("sh", "-c", "exec sleep 1000000")).Stop(t, 0)
	if got, want := said(h.notes(t)), []string{"always", "covered annotation", "pod's annotation"}; !slices.Equal(got, want) {
		t.Errorf("a container without anything: %q, want %q", got, want)
	}
	p.Run(t, "app", func(c *runtime.ContainerConfig) {
		c.Annotations = map[string]string{"example.com/is": "container", "example.com/both": "container"}
		c.Mounts = []*runtime.Mount{{HostPath: t.TempDir(), ContainerPath: "/mnt"}}
	}).Stop(t, 0)
	want := []string{"all that is given", "always", "command", "mounts", "own annotation", "pod's annotation"}
	if got := said(h.notes(t)); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestFoldersOfNodeHooksAreFollowed(t *testing.T) {
	h := withHooks(t)
	p := h.RunPod(t)
	attempt := uint32(0)
	runs := func(t *testing.T, want ...string) {
		t.Helper()
		attempt++
		p.Run(t, "app", func(c *runtime.ContainerConfig) { c.Metadata.Attempt = attempt }).Stop(t, 0)
		if got := said(h.notes(t)); !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
	runs(t)
	h.declare(t, "b.json", declaration(always, h.program, []string{"b"}, "prestart"))
	h.declare(t, "A.json", declaration(always, h.program, []string{"A"}, "prestart"))
	runs(t, "A", "b")

	// The first folder comes to be with all that leads to it; a file of the second one takes its file's place.
	early := filepath.Join(h.first, "b.json")
	if err := os.MkdirAll(h.first, 0o755); err != nil {
		t.Fatal(err)
	}
	h.write(t, early, 0o644, declaration(always, h.program, []string{"early b"}, "prestart"))
	h.write(t, filepath.Join(h.first, "c.json"), 0o644, declaration(always, h.program, []string{"early c"}, "prestart"))
	h.await(t, filepath.Join(h.first, "c.json"), func(f *pouchv1.HookFile) bool { return f != nil })
	runs(t, "A", "b", "early c")
	h.withdraw(t, "b.json")
	h.await(t, early, func(f *pouchv1.HookFile) bool { return f != nil })
	runs(t, "A", "early b", "early c")

	// Who can write to a file decides too, and that can change.
	if err := os.Chmod(early, 0o666); err != nil {
		t.Fatal(err)
	}
	h.await(t, early, func(f *pouchv1.HookFile) bool { return f.GetError() != "" })
	runs(t, "A", "early c")
	if err := os.Chmod(early, 0o600); err != nil {
		t.Fatal(err)
	}
	h.await(t, early, func(f *pouchv1.HookFile) bool { return f != nil && f.Error == "" })
	runs(t, "A", "early b", "early c")
	if err := os.RemoveAll(filepath.Dir(h.first)); err != nil {
		t.Fatal(err)
	}
	h.await(t, early, isNone)
	runs(t, "A")

	// A container keeps what it was created with.
	c := p.Create(t, "kept")
	h.withdraw(t, "A.json")
	c.Start(t)
	if got := said(h.notes(t)); !slices.Equal(got, []string{"A"}) {
		t.Errorf("%q", got)
	}
}

func TestNodeHookFilesThatCannotBeUsedAreReportedAndTheOthersWork(t *testing.T) {
	h := withHooks(t)
	others := filepath.Join(filepath.Dir(h.dir), "others")
	h.write(t, others, 0o777, "#!/bin/sh\n")
	bad := map[string]struct{ text, says string }{
		"10-json.json":     {`{"version": "1.0.0", `, "JSON"},
		"10-old.json":      {`{"hook": "/bin/true", "stages": ["prestart"], "cmds": ["sh"]}`, `"1.0.0"`},
		"10-relative.json": {declaration(always, "bin/true", nil, "prestart"), "absolute"},
		"10-absent.json":   {declaration(always, "/no/such/hook", nil, "prestart"), "/no/such/hook"},
		"10-others.json":   {declaration(always, others, nil, "prestart"), "chmod go-w"},
		"10-pattern.json":  {declaration(`{"commands": ["("]}`, h.program, nil, "prestart"), "regular expression"},
		"10-stage.json":    {declaration(always, h.program, nil, "preStart"), "stages[0]"},
		"10-long.json":     {declaration(always, h.program, []string{strings.Repeat("x", 70000)}, "prestart"), "bytes"},
	}
	for name, b := range bad {
		h.declare(t, name, b.text)
	}
	if err := exec.Command("mkfifo", filepath.Join(h.dir, "10-fifo.json")).Run(); err != nil {
		t.Fatal(err)
	}
	bad["10-fifo.json"] = struct{ text, says string }{says: "regular file"}
	h.declare(t, "20-good.json", declaration(always, h.program, []string{"good"}, "prestart"))
	h.await(t, filepath.Join(h.dir, "10-fifo.json"), func(f *pouchv1.HookFile) bool { return f != nil })

	errors := map[string]string{}
	for _, f := range h.files(t) {
		errors[filepath.Base(f.File)] = f.Error
	}
	for name, b := range bad {
		if !strings.Contains(errors[name], b.says) {
			t.Errorf("%s: %q, want %q in it", name, errors[name], b.says)
		}
		if !strings.Contains(h.Daemon.LogTail(1<<20), name) {
			t.Errorf("the log has no word of %s", name)
		}
	}
	if e, listed := errors["20-good.json"]; !listed || e != "" {
		t.Errorf("the good one: %q, %v", e, listed)
	}
	h.RunPod(t).Run(t, "app").Stop(t, 0)
	if got := said(h.notes(t)); !slices.Equal(got, []string{"good"}) {
		t.Errorf("%q", got)
	}

	out, err := exec.Command(h.Binary, "--socket", h.Socket(), "hooks", "list", "-o", "json").Output()
	var list struct {
		Files []struct{ File, Path, Error string }
	}
	if err == nil {
		err = json.Unmarshal(out, &list)
	}
	if err != nil || len(list.Files) != len(bad)+1 {
		t.Errorf("%v: %s", err, out)
	}
	out, err = exec.Command(h.Binary, "--socket", h.Socket(), "hooks", "list").Output()
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	want := []string{filepath.Join(h.dir, "20-good.json"), "prestart", "always=true", h.program, "10s", "-"}
	if got := strings.Fields(lines[len(lines)-1]); err != nil || !slices.Equal(got, want) {
		t.Errorf("%v: %q, want %q", err, got, want)
	}
}
