package progress

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
)

func TestBar(t *testing.T) {
	half := &pouchv1.Pull{BytesTotal: 45_600_000, BytesDone: 22_800_000, LayersTotal: 5, LayersUnpacked: 2}
	for name, tc := range map[string]struct {
		ref   string
		pull  *pouchv1.Pull
		width int
		want  string
	}{
		"half done":           {"a/b:1", half, 100, "a/b:1 [############............] 22.8MB of 45.6MB, 2 of 5 layers unpacked"},
		"nothing known yet":   {"a/b:1", &pouchv1.Pull{}, 100, "a/b:1 [........................] resolving"},
		"more than announced": {"x", &pouchv1.Pull{BytesTotal: 1, BytesDone: 9}, 100, "x [########################] 9B of 1B, 0 of 0 layers unpacked"},
		"a name too long":     {"registry.example.com/a/very/long/name:1.2.3", half, 90, "...ery/long/name:1.2.3 [############............] 22.8MB of 45.6MB, 2 of 5 layers unpacked"},
		"no room for a bar":   {"a/b:1", half, 50, "a/b:1 22.8MB of 45.6MB, 2 of 5 layers unpacked"},
		"no room for a name":  {"registry.example.com/a", half, 46, "22.8MB of 45.6MB, 2 of 5 layers unpacked"},
		"no room at all":      {"a", half, 5, "22.8M"},
		"no terminal's width": {"a", half, -1, ""},
		"a name that steers":  {"a\x1b[2Jb", half, 100, "a?[2Jb [############............] 22.8MB of 45.6MB, 2 of 5 layers unpacked"},
	} {
		t.Run(name, func(t *testing.T) {
			got := bar(tc.ref, tc.pull, tc.width)
			if got != tc.want {
				t.Errorf("got  %q\nwant %q", got, tc.want)
			}
			if n := utf8.RuneCountInString(got); n > max(tc.width, 0) {
				t.Errorf("%d columns in a width of %d", n, tc.width)
			}
		})
	}
}

func TestPlainLinesAreFew(t *testing.T) {
	var b bytes.Buffer
	now := time.Unix(1000, 0)
	p := New(&b, "a/b:1")
	p.now = func() time.Time { return now }
	for range 100 {
		p.Update(&pouchv1.Pull{BytesTotal: 10, BytesDone: 5})
		now = now.Add(100 * time.Millisecond)
	}
	p.Done()
	if want := strings.Repeat("pulling a/b:1: 5B of 10B, 0 of 0 layers unpacked\n", 2); b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
}

func TestBarIsRedrawnAndTakenAway(t *testing.T) {
	var b bytes.Buffer
	p := &Printer{w: &b, ref: "x", terminal: true, width: func() int { return 20 }}
	p.Update(&pouchv1.Pull{})
	p.Update(&pouchv1.Pull{})
	p.Done()
	p.Done()
	if want := "\rx resolving\x1b[K\rx resolving\x1b[K\r\x1b[K"; b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
}
