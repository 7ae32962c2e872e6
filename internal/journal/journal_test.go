package journal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/containerd/errdefs"
)

func open(t testing.TB, dir string) *Journal {
	t.Helper()
	j, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j
}

func add(t testing.TB, j *Journal, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if err := j.Add(Entry{Kind: Created, ContainerID: id}); err != nil {
			t.Fatal(err)
		}
	}
}

// all reads everything that is kept: the containers' IDs.
func all(t testing.TB, j *Journal) (ids []string) {
	t.Helper()
	r, err := j.Reader(0)
	if err != nil {
		t.Fatal(err)
	}
	for {
		found := r.Next(100)
		if len(found) == 0 {
			return ids
		}
		for _, f := range found {
			ids = append(ids, f.ContainerID)
		}
	}
}

func wantIDs(t testing.TB, j *Journal, want ...string) {
	t.Helper()
	if got := all(t, j); strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("entries are %q, want %q", got, want)
	}
}

func TestEntriesOutliveTheJournal(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	ms, code := int64(12), int32(3)
	want := Entry{
		Time: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Kind: Upgraded, SandboxID: "s", Pod: "p", Namespace: "n", UID: "u", ContainerID: "c",
		Name: "app", Attempt: 4, Image: "i", ImageRef: "i@sha256:1", Predecessor: "b", Outage: &ms, ExitCode: &code, Reason: "r", Message: "m\nm",
	}
	j := open(t, dir)
	if err := j.Add(want); err != nil {
		t.Fatal(err)
	}
	// Not closed: as after SIGKILL.
	j = open(t, dir)
	add(t, j, "next")
	r, err := j.Reader(0)
	if err != nil {
		t.Fatal(err)
	}
	found := r.Next(10)
	if len(found) != 2 || found[0].Number != 1 || found[1].Number != 2 || found[0].Missed+found[1].Missed != 0 {
		t.Fatalf("found %+v", found)
	}
	got := found[0].Entry
	want.Number = 1
	if *got.Outage != 12 || *got.ExitCode != 3 {
		t.Errorf("%+v", got)
	}
	got.Outage, got.ExitCode = want.Outage, want.ExitCode
	if got != want {
		t.Errorf("read %+v, want %+v", got, want)
	}
	if time.Since(found[1].Time) > time.Minute {
		t.Errorf("an entry without a time got %s", found[1].Time)
	}
}

func TestDamageCostsOnlyTheDamagedLines(t *testing.T) {
	line := func(n int) string {
		return fmt.Sprintf(`{"n":%d,"time":"2026-01-02T03:04:05Z","kind":"created","container":"c%d"}`+"\n", n, n)
	}
	for _, tt := range []struct {
		name, former, current string
		want                  string
		next                  uint64
	}{
		{"nothing", "", "", "", 1},
		{"a torn last line", "", line(1) + line(2)[:20], "c1", 2},
		{"a whole last line without its end", "", line(1) + strings.TrimSuffix(line(2), "\n"), "c1", 2},
		{"a line of zeros", "", line(1) + strings.Repeat("\x00", 4096), "c1", 2},
		{"a foreign line", "", line(1) + "hello\n" + line(2), "c1 c2", 3},
		{"a gap", "", line(1) + line(5), "c1 c5", 6},
		{"a number twice", "", line(4) + line(4) + line(3) + line(5), "c4 c5", 6},
		{"a line that is too long", "", line(1) + strings.Replace(line(2), `"c2"`, `"`+strings.Repeat("x", maxLine)+`"`, 1) + line(3), "c1 c3", 4},
		{"two segments", line(3) + line(4), line(5), "c3 c4 c5", 6},
		{"a new current segment", line(3) + line(4), "", "c3 c4", 5},
		{"an older current segment", line(3) + line(4), line(2) + line(5), "c3 c4 c5", 6},
		{"a negative number", "", strings.Replace(line(1), `"n":1`, `"n":-1`, 1), "", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, text := range map[string]string{formerName: tt.former, currentName: tt.current} {
				if text != "" {
					if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
			wantIDs(t, open(t, dir), strings.Fields(tt.want)...)
			j := open(t, dir)
			add(t, j, "new")
			if j.last != tt.next {
				t.Errorf("the next number is %d, want %d", j.last, tt.next)
			}
			wantIDs(t, open(t, dir), append(strings.Fields(tt.want), "new")...)
		})
	}
}

func TestTheJournalIsBounded(t *testing.T) {
	for name, e := range map[string]Entry{
		"many small entries":   {Kind: Created, ContainerID: "c"},
		"entries of huge text": {Kind: Created, ContainerID: strings.Repeat("ä", 1<<17), Image: strings.Repeat("x", 1<<18), Message: strings.Repeat("\x00<", 1<<19)},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			j := open(t, dir)
			n := 3*segmentEntries - 10
			if e.Image != "" {
				n = 600
			}
			for range n {
				if err := j.Add(e); err != nil {
					t.Fatal(err)
				}
			}
			kept := all(t, j)
			if len(kept) > 2*segmentEntries || len(kept) < 60 || !utf8.ValidString(kept[0]) {
				t.Errorf("%d entries are kept", len(kept))
			}
			entries, err := os.ReadDir(dir)
			if err != nil || len(entries) != 2 {
				t.Fatalf("%v, %v", entries, err)
			}
			for _, e := range entries {
				if st, err := e.Info(); err != nil || st.Size() > segmentBytes || st.Size() == 0 || st.Mode().Perm() != 0o600 {
					t.Errorf("%s: %v, %v", e.Name(), st, err)
				}
			}
			again := open(t, dir)
			if got := all(t, again); len(got) != len(kept) || again.last != uint64(n) {
				t.Errorf("%d entries are read back, up to %d; %d were kept, up to %d", len(got), again.last, len(kept), n)
			}
		})
	}
}

func TestASlowReaderIsToldWhatItMissed(t *testing.T) {
	j := open(t, t.TempDir())
	add(t, j, "a", "b", "c")
	slow, err := j.Reader(0)
	if err != nil {
		t.Fatal(err)
	}
	if got := slow.Next(2); len(got) != 2 || got[1].ContainerID != "b" {
		t.Fatalf("%+v", got)
	}
	for range 3 * segmentEntries {
		add(t, j, "x")
	}
	got := slow.Next(10)
	if len(got) != 10 || got[0].Missed == 0 || got[0].Missed != got[0].Number-3 || got[1].Missed != 0 {
		t.Errorf("%+v", got[:2])
	}
}

func TestReadersGetEachEntryOnce(t *testing.T) {
	j := open(t, t.TempDir())
	const writers, each, readers = 4, 300, 3
	var wg sync.WaitGroup
	for range readers {
		r, err := j.Reader(0)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			for last := uint64(0); last < writers*each; {
				if err := r.Wait(t.Context()); err != nil {
					t.Error(err)
					return
				}
				for _, f := range r.Next(7) {
					if f.Number != last+1 || f.Missed != 0 {
						t.Errorf("after %d comes %d", last, f.Number)
					}
					last = f.Number
				}
			}
		})
	}
	for range writers {
		wg.Go(func() {
			for range each {
				add(t, j, "c")
			}
		})
	}
	wg.Wait()
}

func TestReadersThatAskForNoNumberOfThisJournal(t *testing.T) {
	j := open(t, t.TempDir())
	add(t, j, "a")
	if _, err := j.Reader(2); !errdefs.IsOutOfRange(err) {
		t.Errorf("the error is %v", err)
	}
	r, err := j.Reader(1)
	if err != nil || len(r.Next(1)) != 0 {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("the wait ends with %v", err)
	}
}

// What cannot be written is still told to those who follow, once said, and nothing of it stays in the way later.
func TestAJournalWhoseDiskRefuses(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	add(t, j, "a")
	whole := j.file
	readOnly, err := os.Open(filepath.Join(dir, currentName))
	if err != nil {
		t.Fatal(err)
	}
	defer readOnly.Close()
	j.file = readOnly
	if err := j.Add(Entry{Kind: Created, ContainerID: "b"}); err == nil {
		t.Error("the first failure is not told")
	}
	for range 3 * segmentEntries {
		if err := j.Add(Entry{Kind: Created, ContainerID: "c"}); err != nil {
			t.Fatalf("the failure is told again: %v", err)
		}
	}
	if got := all(t, j); len(got) > 2*segmentEntries || got[len(got)-1] != "c" {
		t.Errorf("%d entries are known", len(got))
	}
	_ = whole.Close()
	if j.file == readOnly {
		t.Error("a new segment was not tried")
	}
}

func TestOpenRefusesWhatIsNoFile(t *testing.T) {
	for _, name := range []string{currentName, formerName} {
		dir := t.TempDir()
		if err := os.Symlink("/etc/passwd", filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("a link: %v", err)
		}
		dir = t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("a folder: %v", err)
		}
	}
}

func BenchmarkAdd(b *testing.B) {
	j := open(b, b.TempDir())
	e := Entry{
		Kind: Started, SandboxID: strings.Repeat("0", 64), Pod: "web-7d4b9c6f5-x2x7k", Namespace: "default", UID: strings.Repeat("1", 36),
		ContainerID: strings.Repeat("2", 64), Name: "app", Image: "registry.example.com/team/app:1.2.3", ImageRef: "registry.example.com/team/app@sha256:" + strings.Repeat("3", 64),
	}
	for b.Loop() {
		if err := j.Add(e); err != nil {
			b.Fatal(err)
		}
	}
}
