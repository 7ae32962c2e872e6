package boundlog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestBound(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	f, err := Open(path, 1000)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i := range 500 {
		if _, err := fmt.Fprintf(f, "entry %d\n", i); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 2 {
		t.Fatalf("%v, %v", entries, err)
	}
	for _, p := range []string{path, path + ".1"} {
		b, err := os.ReadFile(p)
		if err != nil || len(b) == 0 || len(b) > 1000 {
			t.Errorf("%s has %d bytes, %v", p, len(b), err)
		}
	}
	if b, _ := os.ReadFile(path); !strings.HasSuffix(string(b), "entry 499\n") {
		t.Errorf("the last entry is not in %q", b)
	}
}

func TestReadGivesTheOlderPartFirst(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if _, err := Read(path, 1000); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a log: %v", err)
	}
	f, err := Open(path, 1000)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if b, err := Read(path, 1000); err != nil || len(b) != 0 {
		t.Errorf("an empty log: %q, %v", b, err)
	}
	var all string
	for i := range 500 {
		entry := fmt.Sprintf("entry %d\n", i)
		all += entry
		if _, err := f.Write([]byte(entry)); err != nil {
			t.Fatal(err)
		}
		b, err := Read(path, 1000)
		if err != nil || !strings.HasSuffix(all, string(b)) || len(b) < min(len(all), 1000) || len(b) > 2000 {
			t.Fatalf("after entry %d: %v, %q", i, err, b)
		}
	}
}

// Whoever reads while the log is rotated sees no gap.
func TestReadDuringRotations(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	f, err := Open(path, 20_000)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	done := make(chan error, 1)
	go func() {
		for i := range 20_000 {
			if _, err := fmt.Fprintf(f, "%d\n", i); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for looking := true; looking; {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			looking = false
		default:
		}
		b, err := Read(path, 20_000)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Fields(string(b))
		for i := 1; i < len(lines); i++ {
			a, _ := strconv.Atoi(lines[i-1])
			if b, _ := strconv.Atoi(lines[i]); b != a+1 && i < len(lines)-1 {
				t.Fatalf("%s follows %s", lines[i], lines[i-1])
			}
		}
	}
}

func TestReadRefusesWhatIsNoLog(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("/etc/hostname", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "huge"), make([]byte, 5000), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"link", "fifo", "."} {
		if b, err := Read(filepath.Join(dir, name), 1000); err == nil {
			t.Errorf("%s gives %d bytes", name, len(b))
		}
	}
	if b, err := Read(filepath.Join(dir, "huge"), 1000); err != nil || len(b) != 1000 {
		t.Errorf("a file that somebody made huge gives %d bytes, %v", len(b), err)
	}
}

func TestTheBoundHoldsWhereTheNewFileCannotBeOpened(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	f, err := Open(path, 100)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	entry := []byte(strings.Repeat("x", 59) + "\n")
	if _, err := f.Write(entry); err != nil {
		t.Fatal(err)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none := unix.Rlimit{Cur: 0, Max: limit.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if _, err := f.Write(entry); err == nil {
			t.Error("something was written beyond the bound")
		}
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(entry); err != nil {
		t.Errorf("descriptors are there again: %v", err)
	}
	for _, name := range []string{path, path + ".1"} {
		if b, err := os.ReadFile(name); err != nil || string(b) != string(entry) {
			t.Errorf("%s has %q, %v", name, b, err)
		}
	}
}
