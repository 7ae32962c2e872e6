package cri

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/cri-pouch/cri-pouch/cri/model"
	"github.com/cri-pouch/cri-pouch/internal/hookrun"
)

// hookedService has a container with two poststop hooks, of which the shim has left these results.
func hookedService(t *testing.T, results ...hookrun.Result) (*Service, model.Container) {
	t.Helper()
	s := &Service{Options: Options{StateDir: t.TempDir(), Log: logrus.NewEntry(logrus.New())}}
	rec := model.Container{ID: "c1", Config: model.ContainerConfig{Name: "app", HookAnnotations: map[string]string{
		"hooks.cri-pouch.io/poststop": `[{"name": "a", "exec": ["x"]}, {"name": "b", "exec": ["x"]}]`,
	}}}
	if err := os.MkdirAll(filepath.Join(s.bundleDir(rec.ID), hookrun.Dir), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := hookrun.WriteResults(s.bundleDir(rec.ID), results); err != nil {
		t.Fatal(err)
	}
	return s, rec
}

func TestTheEndHasWhatBecameOfHooks(t *testing.T) {
	before := hookrun.Result{Stage: hookrun.Prestart, Name: "p", Outcome: hookrun.Failed, ExitCode: 2, Ignored: true}
	fatal := hookrun.Result{Stage: hookrun.Prestart, Name: "q", Outcome: hookrun.Failed, ExitCode: 3}
	after := hookrun.Result{Stage: hookrun.Poststop, Name: "a", Outcome: hookrun.Succeeded}
	for name, test := range map[string]struct {
		results []hookrun.Result
		end     model.End
		skip    string // why the rest was skipped; empty: it was not
		message string
		hooks   int
	}{
		"all went well":         {[]hookrun.Result{after}, model.End{Reason: reasonCompleted}, "", "", 1},
		"beside what is said":   {[]hookrun.Result{before, after}, model.End{Reason: reasonError, Message: "said"}, "", `said; prestart hook "p" failed with exit code 2`, 2},
		"the start's own error": {[]hookrun.Result{before, fatal}, model.End{Reason: reasonStartError, Message: "it failed"}, "", `it failed; prestart hook "p" failed with exit code 2`, 2},
		"lost before them":      {nil, model.End{Reason: reasonLost, Message: "lost"}, "why", `lost; poststop hook "a" was skipped: why; poststop hook "b" was skipped: why`, 2},
		"lost between them":     {[]hookrun.Result{after}, model.End{Reason: reasonLost, Message: "lost"}, "why", `lost; poststop hook "b" was skipped: why`, 2},
		"a flood is no message": {[]hookrun.Result{{Stage: hookrun.Poststop, Outcome: hookrun.Failed, Message: strings.Repeat("é", 10000)}}, model.End{}, "", "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			s, rec := hookedService(t, test.results...)
			end := test.end
			if test.skip != "" {
				end.Hooks = s.skippedHooks(rec, test.skip)
			}
			s.hookEnd(rec, &end)
			if len(end.Message) > maxEndMessage || test.message != "" && end.Message != test.message {
				t.Errorf("the message is %.500q", end.Message)
			}
			if len(end.Hooks) != test.hooks {
				t.Errorf("results are %+v", end.Hooks)
			}
		})
	}
	s, rec := hookedService(t)
	rec.Config.HookAnnotations = nil
	end := model.End{Message: strings.Repeat("x", 2*maxEndMessage)}
	if s.hookEnd(rec, &end); len(end.Message) != 2*maxEndMessage || end.Hooks != nil {
		t.Error("the end of a container without hooks was changed")
	}
}

func TestWhatARecordKeepsIsBounded(t *testing.T) {
	var all []hookrun.Result
	for range 32 {
		all = append(all, hookrun.Result{Output: strings.Repeat("é", hookrun.OutputMax/2)})
	}
	sum := 0
	for _, r := range fit(all) {
		sum += len(r.Output)
		if !strings.HasSuffix(r.Output, "é") || len(r.Output) == 0 {
			t.Errorf("an output is %.20q", r.Output)
		}
	}
	if sum > maxHookOutput {
		t.Errorf("%d bytes are kept", sum)
	}
	if kept := fit(all[:2]); !slices.Equal(kept, all[:2]) {
		t.Error("what fits was cut")
	}
}

// What the journal says of a hook names it, whatever the hook wrote.
func TestAHookIsKnownByItsMessage(t *testing.T) {
	for _, r := range []hookrun.Result{
		{Stage: hookrun.Prestart, Name: "a", Outcome: hookrun.Succeeded, Duration: time.Second},
		{Stage: hookrun.Poststop, Name: "a-b", Outcome: hookrun.Failed, Output: `prestart hook "x" failed`},
		{Stage: hookrun.Poststop, Name: "a", Outcome: hookrun.Skipped, Message: `"quoted"`},
	} {
		if got := hookKeyOf(r.String()); got != hookKey(r) {
			t.Errorf("%q is taken for %q", r.String(), got)
		}
	}
}
