package richrun

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What root in a container has put in the record's place is refused at once, whatever it is.
func TestARecordIsAPlainFile(t *testing.T) {
	for name, put := range map[string]func(at string) error{
		"a link":   func(at string) error { return os.Symlink("/etc/passwd", at) },
		"a FIFO":   func(at string) error { return unix.Mkfifo(at, 0o600) },
		"a folder": func(at string) error { return os.Mkdir(at, 0o700) },
		"a socket": func(at string) error { return unix.Mknod(at, unix.S_IFSOCK|0o600, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			bundle := t.TempDir()
			if err := os.Mkdir(filepath.Join(bundle, Dir), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := put(filepath.Join(bundle, Dir, RecordFile)); err != nil {
				t.Fatal(err)
			}
			if _, err := ReadRecord(bundle); err == nil {
				t.Error("it is read")
			}
		})
	}
}

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
