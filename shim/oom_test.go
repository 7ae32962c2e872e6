package shim

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/sirupsen/logrus"

	"github.com/cri-pouch/cri-pouch/internal/cgrouptree"
	"github.com/cri-pouch/cri-pouch/internal/filewatch"
)

// The folders are plain ones: what is tried is the bookkeeping where systemd removes a scope before its counter is read.
// The kernel's own counters are tried with integration's OOM tests, on cgroup v2 by make test-vm.
func TestAKillIsFoundAfterTheScopeIsGone(t *testing.T) {
	parent := t.TempDir()
	count := func(dir string, kills int) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "memory.events"), fmt.Appendf(nil, "oom_kill %d\n", kills), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	count(parent, 7) // of containers long gone
	log := logrus.NewEntry(logrus.StandardLogger())
	files, err := filewatch.New(log)
	if err != nil {
		t.Fatal(err)
	}
	files.Close() // the watch loses the race: what it did not read is the case here
	w := newOOMWatch(files, log)
	follow := func(name string) *container {
		dir := filepath.Join(parent, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		count(dir, 0)
		c := &container{id: name, tree: cgrouptree.Tree{"": dir}, log: w.log}
		w.follow(c)
		return c
	}
	remove := func(c *container) {
		if err := os.RemoveAll(c.tree[""]); err != nil {
			t.Fatal(err)
		}
	}
	a, b, c, d := follow("a"), follow("b"), follow("c"), follow("d")

	if w.struck(a, true) {
		t.Error("nothing was counted, and its own counter is there to say so")
	}
	remove(a)
	if w.struck(a, true) {
		t.Error("the kills of before are not its own")
	}
	count(parent, 8)
	count(b.tree[""], 1)
	if !w.struck(b, true) {
		t.Error("its own counter says 1")
	}
	if w.struck(a, true) {
		t.Error("that kill was in another container")
	}
	count(parent, 9)
	remove(c)
	if w.struck(c, false) {
		t.Error("it ended by itself or by us")
	}
	if !w.struck(c, true) {
		t.Error("a kill that nobody else accounts for")
	}
	remove(d)
	if w.struck(d, true) {
		t.Error("that kill is accounted for")
	}
	late := follow("late")
	remove(late)
	if w.struck(late, true) {
		t.Error("a new container begins with the count of its time")
	}
}
