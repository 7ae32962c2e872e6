package crilog

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestRecords(t *testing.T) {
	full := strings.Repeat("x", MaxLine)
	for name, c := range map[string]struct {
		writes []string
		want   []string // tag and content
	}{
		"one line":                     {[]string{"a\n"}, []string{"F a"}},
		"empty line":                   {[]string{"\n"}, []string{"F "}},
		"several in one write":         {[]string{"a\nb\n\nc\n"}, []string{"F a", "F b", "F ", "F c"}},
		"a line in pieces":             {[]string{"a", "b", "", "c\nd", "\n"}, []string{"F abc", "F d"}},
		"no end":                       {[]string{"a\nb"}, []string{"F a", "F b"}},
		"nothing":                      {nil, nil},
		"longest full line":            {[]string{full + "\n"}, []string{"F " + full}},
		"longest, its end comes later": {[]string{full, "\n"}, []string{"F " + full}},
		"one byte too long":            {[]string{full + "y\n"}, []string{"P " + full, "F y"}},
		"too long, in pieces":          {[]string{full[:100], full[100:] + "y", "z\n"}, []string{"P " + full, "F yz"}},
		"twice too long":               {[]string{full + full + "z\na\n"}, []string{"P " + full, "P " + full, "F z", "F a"}},
		"carriage return and NUL stay": {[]string{"a\r\n\x00\n"}, []string{"F a\r", "F \x00"}},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "log")
			f := opened(t, path)
			s := f.Stream("stdout")
			defer checkSize(t, path, s, c.want)
			for _, w := range c.writes {
				if n, err := s.Write([]byte(w)); n != len(w) || err != nil {
					t.Fatalf("Write: %d, %v", n, err)
				}
			}
			s.End()
			if got := contents(t, path); strings.Join(got, "\n") != strings.Join(c.want, "\n") {
				t.Errorf("%.80q, want %.80q", got, c.want)
			}
		})
	}
}

// checkSize compares the file's size with what Head says of each record.
func checkSize(t *testing.T, path string, s *Stream, records []string) {
	t.Helper()
	want := 0
	for _, r := range records {
		want += s.Head() + len(r) - len("F ") + len("\n")
	}
	if st, err := os.Stat(path); err != nil || st.Size() != int64(want) {
		t.Errorf("%v, %v, want %d bytes", st, err, want)
	}
}

func opened(t *testing.T, path string) *File {
	t.Helper()
	f, err := New(path, func(err error) { t.Error(err) })
	if err == nil {
		err = f.Reopen()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

var header = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z stdout ([FP] (?s:.*))$`)

func contents(t *testing.T, path string) []string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(string(b)) {
		m := header.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
		if m == nil {
			t.Fatalf("malformed %q", line)
		}
		got = append(got, m[1])
	}
	return got
}

func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	f := opened(t, path)
	s := f.Stream("stdout")
	_, _ = s.Write([]byte("a\nhal"))
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	if err := f.Reopen(); err != nil {
		t.Fatal(err)
	}
	_, _ = s.Write([]byte("f\n"))
	if a, b := contents(t, path+".1"), contents(t, path); len(a) != 1 || a[0] != "F a" || len(b) != 1 || b[0] != "F half" {
		t.Errorf("%q, %q", a, b)
	}
	// A failed one changes nothing.
	if err := os.Rename(path, path+".2"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", path); err != nil {
		t.Fatal(err)
	}
	if err := f.Reopen(); err == nil {
		t.Error("a symlink was followed")
	}
	_, _ = s.Write([]byte("b\n"))
	if got := contents(t, path+".2"); len(got) != 2 {
		t.Errorf("after a failed Reopen: %q", got)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write([]byte("late\n")); err != nil {
		t.Error(err)
	}
	if _, err := New("relative", nil); err == nil {
		t.Error("a relative path was taken")
	}
}

func BenchmarkWrite(b *testing.B) {
	f, err := New("/dev/null", func(error) {})
	if err != nil {
		b.Fatal(err)
	}
	s := f.Stream("stdout")
	piece := []byte(strings.Repeat("a line of an ordinary length, as programs write them\n", 1000))
	b.SetBytes(int64(len(piece)))
	for b.Loop() {
		_, _ = s.Write(piece)
	}
}
