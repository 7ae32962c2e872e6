package richrun

import (
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// noted has the launcher note failures, as root of a container has: each argument is a shell's word for a name.
func noted(t *testing.T, script string) []byte {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it mounts the folder")
	}
	folder := t.TempDir()
	launcher(t, folder)
	record := filepath.Join(folder, RecordFile)
	if err := os.WriteFile(record, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	mounted := `set -e; mount -t tmpfs tmpfs /run; mkdir /run/.pouch; mount --bind "$1" /run/.pouch; cd /run/.pouch; ` + script
	if out, err := exec.Command("unshare", "--mount", "sh", "-c", mounted, "sh", folder).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	text, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestAUnitIsNotedEightTimes(t *testing.T) {
	text := noted(t, `for i in $(seq 20); do ./launch unit a.service; ./launch unit a; done; ./launch unit b.service`)
	if got := strings.Count(string(text), "unit a.service\n"); got != UnitTimes {
		t.Errorf("a.service is noted %d times", got)
	}
	r := ParseRecord(text)
	if len(r.Units) != 2*UnitTimes+1 || r.Units[2*UnitTimes] != "b.service" {
		t.Errorf("%v", r.Units)
	}
}

// The last line of a launcher is read, however long what stands before it can be.
func TestTheLongestRecordIsReadToItsEnd(t *testing.T) {
	text := noted(t, `x=$(head -c 190 /dev/zero | tr '\0' x); for i in $(seq 800); do ./launch unit $x$i; done`)
	if len(text) > 128<<10 || len(text) < 127<<10 {
		t.Errorf("the units have %d bytes", len(text))
	}
	var runs strings.Builder
	for i := range RestartsMax + 1 {
		fmt.Fprintf(&runs, "start %d %d %d\nend %d signal 64 %d oom\n", i+1, 4<<20, int64(math.MaxInt64), i+1, int64(math.MaxInt64))
	}
	text = append(text, runs.String()...)
	text = append(text, "done 137 1\n"...)
	if len(text) > RecordMax {
		t.Errorf("the record has %d bytes, %d are read", len(text), RecordMax)
	}
	if r := ParseRecord(text); !r.Done || r.Code != 137 || r.Starts != RestartsMax+1 || len(r.Runs) != RunsMax {
		t.Errorf("done %v, code %d, %d starts", r.Done, r.Code, r.Starts)
	}
}

// The launcher's own bound is the one that the options have.
func TestMoreRestartsThanTheRecordHasRoomFor(t *testing.T) {
	folder := t.TempDir()
	launcher(t, folder)
	for limit, want := range map[uint]bool{RestartsMax: true, RestartsMax + 1: false} {
		text, err := App{Args: []string{"/bin/true"}, Restart: RestartAlways, RestartLimit: limit}.Encode()
		if err != nil {
			t.Fatal(err)
		}
		// Without streams it goes no further than to read this.
		file := filepath.Join(folder, "app")
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		out, _ := exec.Command(filepath.Join(folder, LaunchFile), file).CombinedOutput()
		if refused := strings.Contains(string(out), "not valid"); refused == want {
			t.Errorf("limit %d: %s", limit, out)
		}
	}
}
