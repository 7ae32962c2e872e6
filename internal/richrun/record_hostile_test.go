package richrun

import (
	"bytes"
	"strings"
	"testing"
)

// hostile are records of the size that is read, as root in the container can write them.
func hostile() map[string][]byte {
	fill := func(line string) []byte { return bytes.Repeat([]byte(line), RecordMax/len(line)) }
	return map[string][]byte{
		"one line": make([]byte, RecordMax), "short lines": fill("\n"), "long words": fill("unit " + strings.Repeat("x", 300) + "\n"),
		"starts": fill("start 1 1 1\n"), "units": fill("unit x\n"), "ends": fill("end 1 signal 9 1 oom\n"), "spaces": fill(strings.Repeat(" ", 255) + "\n"),
	}
}

func BenchmarkParseRecord(b *testing.B) {
	for name, text := range hostile() {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				ParseRecord(text)
			}
		})
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add([]byte("start 1 10 5\nend 1 signal 9 7 oom\nstart 2 11 6\nfailed 3 2 execve\nunit a.service\ndone 3 8\nunit b\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		r := ParseRecord(text)
		if len(r.Runs) > RunsMax || len(r.Units) > UnitsMax || r.UnitsFirst > len(r.Units) || r.Starts < len(r.Runs) || r.Code < 0 || r.Code > 255 {
			t.Errorf("%+v of %q", r, text)
		}
		for _, word := range r.Units {
			if !plain(word) || word == "" {
				t.Errorf("a unit is called %q", word)
			}
		}
	})
}
