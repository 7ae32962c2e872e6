package hooks

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/cri-pouch/cri-pouch/internal/hookrun"
)

func TestAllConditionsHaveToHold(t *testing.T) {
	subject := NodeSubject{
		Annotations: map[string]string{"example.com/a": "one", "example.com/b": "two", "empty": ""}, Commands: []string{"/sbin/init", "/usr/bin/java"}, BindMounts: true,
	}
	bare := NodeSubject{}
	for when, want := range map[string][2]bool{ // the subject, a container without anything
		`{"always": true}`:                            {true, true},
		`{"always": false}`:                           {},
		`{"hasBindMounts": true}`:                     {true, false},
		`{"hasBindMounts": false}`:                    {},
		`{"always": true, "hasBindMounts": true}`:     {true, false},
		`{"always": false, "hasBindMounts": true}`:    {},
		`{"commands": ["/init$"]}`:                    {true, false},
		`{"commands": ["java"]}`:                      {true, false},
		`{"commands": ["^java$"]}`:                    {},
		`{"commands": ["nothing", "^/usr"]}`:          {true, false},
		`{"commands": [""]}`:                          {true, false},
		`{"annotations": {"a$": "^one$"}}`:            {true, false},
		`{"annotations": {"a$": "two"}}`:              {},
		`{"annotations": {"example": "two"}}`:         {true, false},
		`{"annotations": {"a$": "one", "b$": "two"}}`: {true, false},
		`{"annotations": {"a$": "one", "b$": "one"}}`: {},
		`{"annotations": {"^empty$": "^$"}}`:          {true, false},
		`{"annotations": {"": ""}}`:                   {true, false},
		`{"annotations": {"[[:alpha:]]+": "o{1}ne"}}`: {true, false},
		`{"annotations": {"a$": "one"}, "commands": ["java"], "hasBindMounts": true, "always": true}`: {true, false},
		`{"annotations": {"a$": "one"}, "commands": ["python"]}`:                                      {},
	} {
		var f NodeFile
		if err := f.parse(fmt.Appendf(nil, `{"version": "1.0.0", "hook": {"path": "/bin/true"}, "stages": ["prestart"], "when": %s}`, when)); err != nil {
			t.Errorf("%s: %v", when, err)
			continue
		}
		if got := [2]bool{f.When.matches(subject), f.When.matches(bare)}; got != want {
			t.Errorf("%s: %v, want %v", when, got, want)
		}
	}
}

// node opens a folder with one good file and one bad one.
func openNode(t *testing.T) (n *Node, dir, program string, log *logtest.Hook, r *prometheus.Registry) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: only root's files are read")
	}
	dir, program = t.TempDir(), filepath.Join(t.TempDir(), "hook")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, timeout := range map[string]string{"10-short": `, "timeout": 2`, "20-none": "", "30-long": `, "timeout": 100000`} {
		text := fmt.Sprintf(`{"version": "1.0.0", "hook": {"path": %q%s}, "stages": ["prestart", "poststop"], "when": {"always": true}}`, program, timeout)
		if err := os.WriteFile(filepath.Join(dir, name+".json"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "bad.json"), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	logger, log := logtest.NewNullLogger()
	r = prometheus.NewRegistry()
	n = OpenNode(NodeOptions{
		Dirs: []string{dir}, DefaultTimeout: 5 * time.Second, MaxTimeout: 20 * time.Second, Log: logrus.NewEntry(logger), Metrics: r,
	})
	t.Cleanup(n.Close)
	return n, dir, program, log, r
}

func TestSelectionHasOrderFilesAndDeadlines(t *testing.T) {
	n, _, _, _, _ := openNode(t)
	s := n.Select(NodeSubject{})
	if len(*hookrun.StageOf(s.Hooks, hookrun.Prestart)) != 3 || len(s.Hooks.Poststop) != 3 || s.Hooks.CreateRuntime != nil {
		t.Fatalf("%+v", s.Hooks)
	}
	for i, want := range []int{2, 5, 20} {
		if got := *s.Hooks.Poststop[i].Timeout; got != want {
			t.Errorf("timeout %d, want %d", got, want)
		}
	}
	if got := strings.Join(s.Files[hookrun.Prestart], " "); got != "10-short.json 20-none.json 30-long.json" {
		t.Error(got)
	}
}

func figures(t *testing.T, r *prometheus.Registry, used, invalid float64) {
	t.Helper()
	families, err := r.Gather()
	if err != nil || len(families) != 1 || families[0].GetName() != "cri_pouch_node_hook_files" {
		t.Fatalf("%v, %v", families, err)
	}
	got := map[string]float64{}
	for _, m := range families[0].GetMetric() {
		got[m.GetLabel()[0].GetValue()] = m.GetGauge().GetValue()
	}
	if got["used"] != used || got["invalid"] != invalid {
		t.Errorf("%v, want %v and %v", got, used, invalid)
	}
}

// The program may come and go without a change of the folder.
func TestWhatIsWrongIsToldOnceAndCounted(t *testing.T) {
	n, dir, program, log, r := openNode(t)
	figures(t, r, 3, 1)
	if e := log.LastEntry(); len(log.AllEntries()) != 1 || e.Data["file"] != filepath.Join(dir, "bad.json") {
		t.Errorf("%+v", log.AllEntries())
	}
	log.Reset()
	if err := os.Chmod(program, 0o777); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if s := n.Select(NodeSubject{}); s.Hooks != nil {
			t.Errorf("a hook whose program others can write to is used: %+v", s)
		}
	}
	figures(t, r, 0, 4)
	if got := len(log.AllEntries()); got != 3 {
		t.Errorf("%d entries", got)
	}
	log.Reset()
	if err := os.Chmod(program, 0o755); err != nil {
		t.Fatal(err)
	}
	if s := n.Select(NodeSubject{}); s.Hooks == nil {
		t.Error("a hook whose program is right again is not used")
	}
	figures(t, r, 3, 1)
	if got := len(log.AllEntries()); got != 3 {
		t.Errorf("%d entries", got)
	}
}
