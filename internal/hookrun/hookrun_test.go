package hookrun

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestPlanAndResultsComeBack(t *testing.T) {
	bundle := t.TempDir()
	if _, err := ReadPlan(bundle); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("plan of a container without hooks: %v", err)
	}
	plan := Plan{Prestart: []Hook{{Name: "routes", Process: &specs.Process{Args: []string{"ip", "a b\n"}, Cwd: "/"}, Timeout: time.Second, Ignore: true, Log: true}}}
	if err := plan.Write(bundle); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadPlan(bundle); err != nil || !reflect.DeepEqual(got, plan) {
		t.Fatalf("got %+v, %v", got, err)
	}
	if got, err := ReadResults(bundle); err != nil || got != nil {
		t.Fatalf("results before any: %+v, %v", got, err)
	}
	results := []Result{{Stage: Prestart, Name: "routes", Outcome: Failed, ExitCode: 3, Duration: 5 * time.Millisecond, Output: "no\n"}}
	if err := WriteResults(bundle, results); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadResults(bundle); err != nil || !reflect.DeepEqual(got, results) {
		t.Fatalf("got %+v, %v", got, err)
	}
}

func TestTheEndComesBack(t *testing.T) {
	bundle := t.TempDir()
	if err := (Plan{}).Write(bundle); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadEnd(bundle); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("end before there is one: %v", err)
	}
	end := End{ExitCode: 137, OOMKilled: true, StartedAt: time.Unix(1, 2).UTC(), FinishedAt: time.Unix(3, 4).UTC()}
	if err := end.Write(bundle); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadEnd(bundle); err != nil || got != end {
		t.Fatalf("got %+v, %v", got, err)
	}
}

func TestWhatCannotBeReadIsRefused(t *testing.T) {
	bundle := t.TempDir()
	if err := (Plan{}).Write(bundle); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{"no JSON": []byte("{"), "too long": make([]byte, planMax+1)} {
		for _, file := range []string{PlanFile, ResultsFile} {
			if err := os.WriteFile(filepath.Join(bundle, Dir, file), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := ReadPlan(bundle); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("plan, %s: %v", name, err)
		}
		if _, err := ReadResults(bundle); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("results, %s: %v", name, err)
		}
	}
}
