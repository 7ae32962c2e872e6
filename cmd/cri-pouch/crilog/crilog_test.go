package crilog

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const stamp = "2026-01-02T03:04:05.000000006Z"

// log makes a log of entries as "out F text".
func log(entries ...string) string {
	var b strings.Builder
	for _, e := range entries {
		fmt.Fprintf(&b, "%s std%s\n", stamp, e)
	}
	return b.String()
}

func write(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "0.log")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPrint(t *testing.T) {
	three := log("out F one", "err F two", "out F three")
	for name, tc := range map[string]struct {
		content    string
		tail       int
		timestamps bool
		out, err   string
	}{
		"an empty log":                       {"", -1, false, "", ""},
		"streams stay apart":                 {three, -1, false, "one\nthree\n", "two\n"},
		"timestamps":                         {three, -1, true, stamp + " one\n" + stamp + " three\n", stamp + " two\n"},
		"the last two":                       {three, 2, false, "three\n", "two\n"},
		"none":                               {three, 0, false, "", ""},
		"more than there are":                {three, 9, false, "one\nthree\n", "two\n"},
		"an empty line":                      {log("out F "), -1, false, "\n", ""},
		"an empty line without its space":    {log("out F"), -1, false, "\n", ""},
		"further tags":                       {log("out F:x=y text"), -1, false, "text\n", ""},
		"a line in parts":                    {log("out P a", "out P b", "out F c", "out F d"), -1, true, stamp + " abc\n" + stamp + " d\n", ""},
		"a line in parts counts once":        {log("out F x", "out P a", "out P b", "out F c"), 1, false, "abc\n", ""},
		"parts of two streams":               {log("out P a", "err F e", "out F b"), -1, false, "ab\n", "e\n"},
		"a line that has not ended":          {log("out F x", "out F y", "out P a", "out P b"), 2, false, "y\nab", ""},
		"a carriage return":                  {log("out F 50%\r100%"), -1, false, "50%\r100%\n", ""},
		"an entry that is cut off":           {log("out F one") + stamp + " stdout F tw", -1, false, "one\ntw\n", ""},
		"a cut-off entry counts for tail":    {log("out F one") + stamp + " stdout F tw", 1, false, "tw\n", ""},
		"a line that is no entry":            {log("out F one") + "rubbish\n" + log("out F two"), -1, false, "one\ntwo\n", "rubbish\n"},
		"an unknown stream":                  {stamp + " stdlog F x\n", -1, false, "", stamp + " stdlog F x\n"},
		"an unknown tag":                     {stamp + " stdout Q x\n", -1, false, "", stamp + " stdout Q x\n"},
		"a broken time":                      {"yesterday stdout F x\n", -1, false, "", "yesterday stdout F x\n"},
		"text that looks like an entry's":    {log("out F " + stamp + " stdout F x"), -1, false, stamp + " stdout F x\n", ""},
		"bytes that are no text":             {log("out F \xff\x00\xfe"), -1, false, "\xff\x00\xfe\n", ""},
		"more than one block from the end":   {long(20000), 15000, false, numbers(5000, 20000), ""},
		"exactly what is there, many blocks": {long(20000), 20000, false, numbers(0, 20000), ""},
	} {
		t.Run(name, func(t *testing.T) {
			var out, err bytes.Buffer
			if e := Print(write(t, tc.content), Options{Tail: tc.tail, Timestamps: tc.timestamps, Stdout: &out, Stderr: &err}); e != nil {
				t.Fatal(e)
			}
			if out.String() != tc.out || err.String() != tc.err {
				t.Errorf("stdout %q\n  want %q\nstderr %q\n  want %q", short(out.String()), short(tc.out), short(err.String()), short(tc.err))
			}
		})
	}
}

func short(s string) string {
	if len(s) > 300 {
		return fmt.Sprintf("%s… (%d bytes)", s[:300], len(s))
	}
	return s
}

func long(n int) string {
	entries := make([]string, n)
	for i := range entries {
		entries[i] = fmt.Sprintf("out F %d", i)
	}
	return log(entries...)
}

func numbers(from, to int) string {
	var b strings.Builder
	for i := from; i < to; i++ {
		fmt.Fprintln(&b, i)
	}
	return b.String()
}

func TestPrintRefuses(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := os.Symlink(write(t, log("out F secret")), link); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{"a symbolic link": link, "a folder": dir, "nothing": filepath.Join(dir, "none")} {
		var out bytes.Buffer
		if err := Print(path, Options{Tail: -1, Stdout: &out, Stderr: io.Discard}); err == nil || out.Len() > 0 {
			t.Errorf("%s is read: %q, %v", name, out.String(), err)
		}
	}
}

// followed runs Follow and gives what it prints, line by line.
type followed struct {
	lines   *io.PipeReader
	pipe    *io.PipeWriter
	running atomic.Bool
	end     context.CancelFunc
	done    chan error
}

func follow(t *testing.T, path string, tail int) *followed {
	t.Helper()
	r, w := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	f := &followed{lines: r, pipe: w, end: cancel, done: make(chan error, 1)}
	f.running.Store(true)
	go func() {
		err := Follow(ctx, path, Options{Tail: tail, Stdout: w, Stderr: io.Discard}, func(context.Context) (bool, error) { return f.running.Load(), nil })
		w.Close()
		f.done <- err
	}()
	t.Cleanup(func() { cancel(); r.Close() })
	return f
}

// expect reads exactly want.
func (f *followed) expect(t *testing.T, want string) {
	t.Helper()
	timer := time.AfterFunc(20*time.Second, func() { f.pipe.CloseWithError(fmt.Errorf("nothing came for 20 s")) })
	defer timer.Stop()
	got := make([]byte, len(want))
	n, err := io.ReadFull(f.lines, got)
	if string(got[:n]) != want || err != nil {
		t.Fatalf("got %q, want %q (%v)", got[:n], want, err)
	}
}

func add(t *testing.T, path, content string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(content); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestFollow(t *testing.T) {
	path := write(t, log("out F one", "out F two"))
	f := follow(t, path, 1)
	f.expect(t, "two\n")
	add(t, path, log("out F three"))
	f.expect(t, "three\n")
	// An entry that is written in two goes is printed once it is whole.
	entry := log("out F four")
	add(t, path, entry[:len(entry)-3])
	add(t, path, entry[len(entry)-3:])
	f.expect(t, "four\n")
	// A rotation: what is written to the old file after the rename is not lost, nor is what the new one begins with.
	if err := os.Rename(path, path+".20260102-030405"); err != nil {
		t.Fatal(err)
	}
	add(t, path+".20260102-030405", log("out F five"))
	add(t, path, "")
	add(t, path+".20260102-030405", log("out F six"))
	add(t, path, log("out F seven"))
	f.expect(t, "five\nsix\nseven\n")
	// A truncation starts over.
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	add(t, path, log("out F 8"))
	f.expect(t, "8\n")
	f.running.Store(false)
	if err := <-f.done; err != nil {
		t.Errorf("end: %v", err)
	}
}

func TestFollowPrintsWhatCameBeforeTheEnd(t *testing.T) {
	path := write(t, "")
	f := follow(t, path, -1)
	f.running.Store(false)
	add(t, path, log("out F last")+stamp+" stdout F cut")
	f.expect(t, "last\ncut\n")
	if err := <-f.done; err != nil {
		t.Errorf("end: %v", err)
	}
}

func TestFollowEndsWithItsContext(t *testing.T) {
	f := follow(t, write(t, log("out F one")), -1)
	f.expect(t, "one\n")
	f.end()
	if err := <-f.done; err != nil {
		t.Errorf("end: %v", err)
	}
}

func TestFollowReportsAFailedQuestion(t *testing.T) {
	err := Follow(t.Context(), write(t, ""), Options{Tail: -1, Stdout: io.Discard, Stderr: io.Discard},
		func(context.Context) (bool, error) { return true, fmt.Errorf("daemon is gone") })
	if err == nil || !strings.Contains(err.Error(), "daemon is gone") {
		t.Errorf("got %v", err)
	}
}

func FuzzPrint(f *testing.F) {
	f.Add(log("out F one", "out P tw", "err F three"), 1)
	f.Add("\n\n \nx", 2)
	f.Fuzz(func(t *testing.T, content string, tail int) {
		path := write(t, content)
		if err := Print(path, Options{Tail: tail, Stdout: io.Discard, Stderr: io.Discard}); err != nil {
			t.Error(err)
		}
	})
}
