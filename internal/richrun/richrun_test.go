package richrun

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// launcher builds pouch-init from its source, as the launcher.
func launcher(t *testing.T, folder string) {
	t.Helper()
	sources, err := filepath.Glob("../../init/*.c")
	if err != nil || len(sources) == 0 {
		t.Fatalf("no sources: %v", err)
	}
	out, err := exec.Command("gcc", append([]string{"-std=c11", "-o", filepath.Join(folder, LaunchFile)}, sources...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("build pouch-init: %v\n%s", err, out)
	}
}

func TestTheLauncherRunsWhatIsEncoded(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it mounts the folder and changes its user")
	}
	folder := t.TempDir()
	launcher(t, folder)
	umask := uint32(0o027)
	app := App{
		Args: []string{"/bin/sh", "-c", `printf '%s|' "$@" "$V" "$(pwd)" "$(id -u)" "$(id -G)" "$(umask)" "$(ulimit -n)"; echo err >&2; exit 7`, "sh", "a b", "", "\xff'\"\n$x%s"},
		Env:  []string{"PATH=/usr/bin:/bin", "V= =x\n"}, UID: 1234, GID: 2345, Groups: []uint32{77}, Dir: "/usr", Umask: &umask,
		Rlimits: []Rlimit{{Resource: unix.RLIMIT_NOFILE, Soft: 99, Hard: 100}}, Restart: RestartOnFailure, RestartLimit: 1, RestartInterval: time.Millisecond,
	}
	text, err := app.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{AppFile: text, RecordFile: nil, StdoutFIFO: nil, StderrFIFO: nil} {
		if err := os.WriteFile(filepath.Join(folder, name), content, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(folder, ControlFIFO), 0o600); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	err = exec.Command("unshare", "--mount", "sh", "-c", `set -e; mount -t tmpfs tmpfs /run; mkdir /run/.pouch; mount --bind "$1" /run/.pouch; exec /run/.pouch/launch`, "sh", folder).Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Fatalf("the launcher ended with %v", err)
	}
	out, err := os.ReadFile(filepath.Join(folder, StdoutFIFO))
	want := "a b||\xff'\"\n$x%s| =x\n|/usr|1234|2345 77|0027|99|"
	// The second start writes over the first: these are files here, not FIFOs.
	if err != nil || !strings.HasPrefix(string(out), want) {
		t.Errorf("it got %q, %v", out, err)
	}
	record, err := os.ReadFile(filepath.Join(folder, RecordFile))
	if err != nil {
		t.Fatal(err)
	}
	r := ParseRecord(record)
	if !r.Done || r.Code != 7 || r.Starts != 2 || len(r.Runs) != 2 || r.DoneAt.Before(begun) {
		t.Fatalf("%+v of %s", r, record)
	}
	for i, run := range r.Runs {
		if run.N != i+1 || run.PID <= 0 || !run.Ended || run.Code != 7 || run.Signal != 0 || run.StartedAt.Before(begun) || run.EndedAt.Before(run.StartedAt) {
			t.Errorf("%+v", run)
		}
	}
	if _, ok := r.Running(); ok {
		t.Error("it is said to run")
	}
}

func TestWordsThatNoProgramCanGet(t *testing.T) {
	for _, a := range []App{
		{}, {Args: []string{"a\x00b"}}, {Args: []string{"a"}, Env: []string{"A=b\x00"}}, {Args: []string{"a"}, Env: []string{"A"}},
		{Args: []string{"a"}, Env: []string{"=x"}}, {Args: []string{"a"}, Dir: "/\x00"},
	} {
		if _, err := a.Encode(); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: %v", a, err)
		}
	}
}

func TestRecords(t *testing.T) {
	for text, want := range map[string]Record{
		"":                                     {},
		"start 1 10 5\n":                       {Starts: 1, Runs: []Run{{N: 1, PID: 10, StartedAt: time.Unix(0, 5)}}},
		"start 1 10 5\nend 1 signal 9 7":       {Starts: 1, Runs: []Run{{N: 1, PID: 10, StartedAt: time.Unix(0, 5)}}}, // half a line
		"start 1 10 5\nend 1 signal 9 7\n":     {Starts: 1, Runs: []Run{{N: 1, PID: 10, StartedAt: time.Unix(0, 5), Ended: true, EndedAt: time.Unix(0, 7), Signal: 9, Code: 137}}},
		"start 1 10 5\nend 1 signal 9 7 oom\n": {Starts: 1, Runs: []Run{{N: 1, PID: 10, StartedAt: time.Unix(0, 5), Ended: true, EndedAt: time.Unix(0, 7), Signal: 9, Code: 137, OOM: true}}},
		"failed 1 2 exec\ndone 127 8\n":        {Starts: 1, Runs: []Run{{N: 1, Failed: "exec", Errno: 2}}, Done: true, Code: 127, DoneAt: time.Unix(0, 8)},
		"done 3 8\ndone 0 9\nstart 9 9 9\n":    {Done: true, Code: 3, DoneAt: time.Unix(0, 8)}, // the first word counts
		"unit a.service\nnonsense\nunit b\n":   {Units: []string{"a.service", "b"}},
		"end 1 exit 0 7\ndone x\nunit\n\n":     {},
	} {
		got := ParseRecord([]byte(text))
		if got.Done != want.Done || got.Code != want.Code || !got.DoneAt.Equal(want.DoneAt) || got.Starts != want.Starts || len(got.Runs) != len(want.Runs) || strings.Join(got.Units, ",") != strings.Join(want.Units, ",") {
			t.Errorf("%q: %+v", text, got)
			continue
		}
		for i := range got.Runs {
			if got.Runs[i] != want.Runs[i] {
				t.Errorf("%q: %+v", text, got.Runs[i])
			}
		}
	}
	if r := ParseRecord([]byte("unit a\ndone 0 8\nunit b\n")); r.UnitsFirst != 1 || len(r.Units) != 2 {
		t.Errorf("a unit that failed in the shutdown: %+v", r)
	}
	many := ParseRecord([]byte(strings.Repeat("start 1 1 1\n", 500) + strings.Repeat("unit x\n", 500) + "unit y\n"))
	if many.Starts != 500 || len(many.Runs) != RunsMax || len(many.Units) != UnitTimes+1 || many.Units[UnitTimes] != "y" {
		t.Errorf("%d starts, %d runs, units %v", many.Starts, len(many.Runs), many.Units)
	}
}

func TestPlans(t *testing.T) {
	bundle := t.TempDir()
	if _, err := ReadPlan(bundle); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a plain container: %v", err)
	}
	if err := os.Mkdir(filepath.Join(bundle, Dir), 0o700); err != nil {
		t.Fatal(err)
	}
	want := Plan{Mode: "systemd", Shutdown: 37, ShutdownTimeout: 10 * time.Second, Delegate: true, OwnerUID: 1, OwnerGID: 2, WatchUnits: []string{"a"}}
	if err := want.Write(bundle); err != nil {
		t.Fatal(err)
	}
	got, err := ReadPlan(bundle)
	if err != nil || got.Mode != want.Mode || got.Shutdown != 37 || got.ShutdownTimeout != want.ShutdownTimeout || !got.Delegate || got.OwnerGID != 2 || len(got.WatchUnits) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	if err := os.WriteFile(filepath.Join(bundle, PlanFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadPlan(bundle); !errdefs.IsInvalidArgument(err) {
		t.Errorf("half a plan: %v", err)
	}
}
