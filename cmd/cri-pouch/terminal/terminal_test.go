package terminal

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestFilter(t *testing.T) {
	for name, tc := range map[string]struct{ in, out string }{
		"text":                      {"Größe: 5 µs\t世界 🙂\r\n", "Größe: 5 µs\t世界 🙂\r\n"},
		"colours":                   {"\x1b[1;31mred\x1b[0m \x1b[38;5;9mnine\x1b[m", "\x1b[1;31mred\x1b[0m \x1b[38;5;9mnine\x1b[m\x1b[0m"},
		"a title":                   {"\x1b]0;owned\x07", "?]0;owned?"},
		"the cursor":                {"\x1b[2J\x1b[H\x1b[6n", "?[2J?[H?[6n"},
		"a private colour":          {"\x1b[?25l\x1b[>4;1m", "?[?25l?[>4;1m"},
		"a bare m":                  {"\x1bm", "?m"},
		"an endless colour":         {"\x1b[" + strings.Repeat("1", 60) + "m", "?[" + strings.Repeat("1", 60) + "m"},
		"single control characters": {"a\x00\x07\x08\x0e\x7fz", "a?????z"},
		"control characters of C1":  {"\u009b31m\u0085", "?31m?"},
		"bytes that are no UTF-8":   {"\x9b2J\xff\xc3(", "?2J??("},
		"a replacement character":   {"\ufffd", "\ufffd"},
		"directions":                {"\u202eevil\u200b", "?evil?"},
		"a cut character":           {"a\xe4\xb8", "a??"},
		"a cut sequence":            {"a\x1b[3", "a???"},
		"two escapes":               {"\x1b\x1b[31m", "?\x1b[31m\x1b[0m"},
		"nothing":                   {"", ""},
	} {
		for how, step := range map[string]int{"at once": 1 << 20, "byte by byte": 1, "in threes": 3} {
			var b bytes.Buffer
			f := &filter{w: &b}
			for rest := []byte(tc.in); len(rest) > 0; {
				n := min(step, len(rest))
				if wrote, err := f.Write(rest[:n]); wrote != n || err != nil {
					t.Fatal(wrote, err)
				}
				rest = rest[n:]
			}
			if err := f.end(); err != nil || b.String() != tc.out {
				t.Errorf("%s, %s: %q, %v, wanted %q", name, how, b.String(), err, tc.out)
			}
		}
	}
}

func TestGuard(t *testing.T) {
	var plain bytes.Buffer
	w, end := Guard(&plain)
	if _, err := w.Write([]byte("\x1b[2J\xff")); err != nil || end() != nil || plain.String() != "\x1b[2J\xff" {
		t.Errorf("what is no terminal gets %q, %v", plain.String(), err)
	}
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	w, end = Guard(tty)
	if _, err := w.Write([]byte("\x1b[2Jx")); err != nil || end() != nil {
		t.Fatal(err)
	}
	got := make([]byte, 100)
	if n, err := master.Read(got); err != nil || string(got[:n]) != "?[2Jx" {
		t.Errorf("a terminal gets %q, %v", got[:n], err)
	}
}

func FuzzFilter(f *testing.F) {
	f.Add([]byte("\x1b[31mx\x1b]0;t\x07"), 2)
	f.Add([]byte("\xe4\xb8\x96\x9b"), 1)
	f.Fuzz(func(t *testing.T, in []byte, cut int) {
		cut = max(0, min(cut, len(in)))
		var b bytes.Buffer
		g := &filter{w: &b}
		for _, part := range [][]byte{in[:cut], in[cut:]} {
			if _, err := g.Write(part); err != nil {
				t.Fatal(err)
			}
		}
		if err := g.end(); err != nil {
			t.Fatal(err)
		}
		for i, c := range b.Bytes() {
			if c == escape && !bytes.HasPrefix(b.Bytes()[i:], []byte("\x1b[")) || c < ' ' && !strings.ContainsRune("\n\r\t\x1b", rune(c)) || c == 0x7f {
				t.Fatalf("%q lets %q through", in, b.Bytes())
			}
		}
	})
}
