package client_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-pouch/cri-pouch/internal/hookrun"
)

// inherited is what a program tells of what it has from its parent: how the OOM killer sees it, its umask, its limit of open
// files, its priority, signals that it would not get. The last line is of a process that it started at once.
const inherited = `cat /proc/self/oom_score_adj; umask; ulimit -Sn; ulimit -Hn; cut -d' ' -f19 /proc/self/stat; grep -E '^Sig(Blk|Ign)' /proc/self/status; cat /proc/self/oom_score_adj`

// The shim is spared by the OOM killer, and takes the signals of its terminal. What it starts must have nothing of that: the
// processes of containers, those of execs and hooks, and the node's programs.
func TestWhatTheShimStartsInheritsNothingOfItsOwn(t *testing.T) {
	l := newLab(t)
	plain, err := exec.Command("/bin/sh", "-c", inherited).Output()
	if err != nil {
		t.Fatal(err)
	}
	// A score that a test may have on every machine; a negative one is inherited in the same way.
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", l.client.Pid()), []byte("500"), 0); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"cut", "umask"} {
		_ = os.Symlink("busybox", filepath.Join(l.rootfs, "bin", name))
	}
	told := t.TempDir()
	script := func(name string) []specs.Hook {
		return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "(" + inherited + ") >" + filepath.Join(told, name)}}}
	}
	spec := l.spec("c", "sh", "-c", inherited+"; sleep 1000")
	spec.Hooks = &specs.Hooks{
		CreateRuntime: script("createRuntime"), CreateContainer: script("createContainer"), Poststart: script("poststart"), Poststop: script("poststop"),
		StartContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "(" + inherited + ") >/v/startContainer"}, Env: []string{"PATH=/bin"}}},
	}
	r := l.withHooks("c", spec, []hookrun.Hook{l.script("prestart", inherited)}, []hookrun.Hook{l.script("poststop", inherited)})
	if err := (hookrun.NodePlan{PouchInit: l.launcher()}).Write(r.Bundle); err != nil {
		t.Fatal(err)
	}
	l.run(r)
	got := map[string]string{}
	got["exec"], _ = l.exec("c", "sh", "-c", inherited)
	lines := strings.Count(string(plain), "\n")
	l.eventually("the program has told what it has", func() bool { return strings.Count(l.text("c", "stdout"), "\n") == lines })
	got["program"] = l.text("c", "stdout")
	l.kill("c")
	l.finish("c")
	for _, result := range l.results(r) {
		got["hook "+string(result.Stage)] = result.Output
	}
	for _, name := range []string{"createRuntime", "createContainer", "poststart", "poststop"} {
		got["node "+name] = l.read(filepath.Join(told, name))
	}
	got["node startContainer"] = l.read(filepath.Join(l.rootfs, "v/startContainer"))
	if len(got) != 9 {
		t.Errorf("%d programs ran, want 9", len(got))
	}
	for name, text := range got {
		if text != string(plain) {
			t.Errorf("%s has\n%s\nand not what a child of this test has:\n%s", name, text, plain)
		}
	}
}

func (l *lab) read(path string) string {
	l.t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		l.t.Fatal(err)
	}
	return string(b)
}
