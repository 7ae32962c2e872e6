package boundlog

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
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
