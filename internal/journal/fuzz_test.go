package journal

import (
	"os"
	"path/filepath"
	"testing"
)

// Whatever stands in the files, the journal opens, its numbers grow, and what is added is there afterwards.
func FuzzOpen(f *testing.F) {
	f.Add([]byte(nil), []byte(nil))
	f.Add([]byte(`{"n":1,"kind":"created"}`+"\n"), []byte(`{"n":2,"kind":"ended","code":3}`+"\n"+`{"n":3`))
	f.Add([]byte("\n\n\x00"), []byte(`{"n":18446744073709551615}`+"\n"))
	f.Add([]byte(`{"n":1e3}`+"\n"), []byte(`[]`+"\n"+`{"n":5,"outage":"x"}`+"\n"))
	f.Fuzz(func(t *testing.T, former, current []byte) {
		dir := t.TempDir()
		for name, text := range map[string][]byte{formerName: former, currentName: current} {
			if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		before := all(t, open(t, dir))
		j := open(t, dir)
		add(t, j, "new")
		if after := all(t, j); len(after) != len(before)+1 || after[len(before)] != "new" {
			t.Errorf("%d entries before, then %q", len(before), after)
		}
		if after := all(t, open(t, dir)); len(after) != len(before)+1 {
			t.Errorf("%d entries before, %d read back with a new one", len(before), len(after))
		}
		last := uint64(0)
		for _, l := range j.lines {
			if l.number <= last {
				t.Errorf("number %d comes after %d", l.number, last)
			}
			last = l.number
		}
	})
}
