package shimstate

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cri-pouch/cri-pouch/integration/faults"
)

func TestRecords(t *testing.T) {
	d := Of(t.TempDir())
	if r, err := d.Records(); err != nil || len(r) != 0 {
		t.Fatalf("without a folder: %v, %v", r, err)
	}
	if err := d.Make(); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{string(d), d.Containers(), d.Libcontainer()} {
		if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", dir, st.Mode(), err)
		}
	}
	for _, id := range []string{"whole", "broken", "empty"} {
		if err := os.Mkdir(d.Container(id), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Write(Record{ID: "whole", CgroupPaths: map[string]string{"pids": "/x"}, Pid: 7, StartTime: 8}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(d.Container("broken"), "record.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	records, err := d.Records()
	if err != nil || len(records) != 3 {
		t.Fatalf("%v, %v", records, err)
	}
	for _, r := range records {
		if (r.ID == "whole") != (r.Pid == 7 && r.StartTime == 8 && r.CgroupPaths["pids"] == "/x") {
			t.Errorf("%+v", r)
		}
	}
}

// Who cleans up after a shim would take a container without a record for one without processes.
func TestARecordThatCannotBeReadForWantOfMemoryIsAnError(t *testing.T) {
	if !faults.Again(t, "read:error=ENOMEM:when=5+") {
		return
	}
	d := Of(t.TempDir())
	if err := os.MkdirAll(d.Container("c"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := d.Write(Record{ID: "c", Pid: 7}); err != nil {
		t.Fatal(err)
	}
	for failed := false; !failed; {
		r, err := d.Records()
		if failed = err != nil; !failed && r[0].Pid != 7 {
			t.Fatalf("the records are %+v", r)
		}
	}
}

func TestCheckID(t *testing.T) {
	for id, ok := range map[string]bool{
		"a": true, "0.9_-Z": true, strings.Repeat("x", 128): true,
		"": false, ".": false, "..": false, "a/b": false, "../a": false, "-a": false, "a b": false, "a\n": false, strings.Repeat("x", 129): false,
	} {
		if err := CheckID(id); (err == nil) != ok {
			t.Errorf("%q: %v", id, err)
		}
	}
}

func TestReadStat(t *testing.T) {
	s, err := ReadStat(os.Getpid())
	if err != nil || s.Parent != os.Getppid() || s.StartTime == 0 || s.Comm == "" {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := ReadStat(1 << 30); !os.IsNotExist(err) {
		t.Errorf("no such process: %v", err)
	}
}
