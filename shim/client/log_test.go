package client_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestLongLinesAndLinesWithoutEnd(t *testing.T) {
	l := newLab(t)
	l.shell("c", "i=0; while [ $i -lt 2500 ]; do printf 0123456789abcdef; i=$((i+1)); done; echo; printf 'no end'")
	l.finish("c")
	records := l.log("c")
	want := strings.Repeat("0123456789abcdef", 2500) + "\nno end\n"
	if got := l.text("c", "stdout"); got != want {
		t.Errorf("%d bytes, want %d", len(got), len(want))
	}
	var tags []string
	for _, r := range records {
		if len(r.content) > 16<<10 {
			t.Errorf("a record of %d bytes", len(r.content))
		}
		if r.stream == "stdout" {
			tags = append(tags, r.tag)
		}
	}
	if strings.Join(tags, "") != "PPFF" {
		t.Errorf("tags %v", tags)
	}
}

func TestRotation(t *testing.T) {
	l := newLab(t)
	l.shell("c", "i=0; while [ $i -lt 2000 ]; do echo $i; i=$((i+1)); usleep 200; done")
	var parts []string
	for n := range 3 {
		l.eventually("something is logged", func() bool {
			st, err := os.Stat(l.logPath("c"))
			return err == nil && st.Size() > 0
		})
		part := fmt.Sprintf("%s.%d", l.logPath("c"), n)
		if err := os.Rename(l.logPath("c"), part); err != nil {
			t.Fatal(err)
		}
		if err := l.client.ReopenLog(l.ctx, "c"); err != nil {
			t.Fatal(err)
		}
		parts = append(parts, part)
	}
	l.wait("c")
	if err := l.client.ReopenLog(l.ctx, "c"); err == nil {
		t.Error("the log of an ended container was opened again")
	}
	l.finish("c")
	next := 0
	for _, part := range append(parts, l.logPath("c")) {
		for _, r := range l.parse(part) {
			if r.content != fmt.Sprint(next) {
				t.Fatalf("%s: %q where %d is expected", part, r.content, next)
			}
			next++
		}
	}
	if next != 2000 {
		t.Errorf("%d lines", next)
	}
	if st, err := os.Stat(l.logPath("c")); err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("mode of the log: %v, %v", st.Mode(), err)
	}
}

func TestManyLines(t *testing.T) {
	l := newLab(t)
	l.shell("c", "seq 200000")
	l.finish("c")
	records := l.log("c")
	if len(records) != 200000 {
		t.Fatalf("%d lines", len(records))
	}
	for i, r := range records {
		if r.content != fmt.Sprint(i+1) || r.tag != "F" {
			t.Fatalf("line %d is %+v", i, r)
		}
	}
}

func TestAFullDiskStopsTheLogAndNotTheContainer(t *testing.T) {
	l := newLab(t)
	disk := filepath.Join(l.state, "disk")
	if err := os.Mkdir(disk, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	r := l.request("c", l.spec("c", "sh", "-c", "seq 100000; exit 6"))
	r.LogPath = filepath.Join(disk, "c.log")
	l.run(r)
	if exit := l.finish("c"); exit.Code != 6 {
		t.Errorf("code %d", exit.Code)
	}
	for i, rec := range l.parse(r.LogPath) { // whole records only, a gap at most at the end
		if i < 100 && rec.content != fmt.Sprint(i+1) {
			t.Fatalf("record %d is %+v", i, rec)
		}
	}
	b, err := os.ReadFile(filepath.Join(l.state, "shim", "shim.log"))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(b), "no space left"); n != 1 {
		t.Errorf("the full disk was reported %d times", n)
	}
}

// A background process that escapes the container's cgroup cannot be made here, so one outside holds the FIFO.
func TestAHolderOfTheFIFODoesNotDelayTheEnd(t *testing.T) {
	l := newLab(t)
	l.shell("c", "echo first; sleep 1000")
	l.eventually("it has written", func() bool { return len(l.log("c")) == 1 })
	f, err := os.OpenFile(filepath.Join(l.state, "shim", "containers", "c", "stdout"), os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l.kill("c")
	began := time.Now()
	l.finish("c")
	if took := time.Since(began); took > longEnough {
		t.Errorf("the end was known after %v", took)
	}
	if text := l.text("c", "stdout"); text != "first\n" {
		t.Errorf("log %q", text)
	}
}

func TestTerminalLog(t *testing.T) {
	l := newLab(t)
	spec := l.spec("c", "sh", "-c", "tty; echo err >&2; read x; stty size")
	spec.Process.Terminal = true
	l.run(l.request("c", spec))
	if err := l.client.ResizePty(l.ctx, "c", "", 100, 30); err != nil {
		t.Fatal(err)
	}
	l.eventually("it has written both lines", func() bool { return len(l.log("c")) >= 2 })
	l.kill("c")
	l.finish("c")
	for _, r := range l.log("c") {
		if r.stream != "stdout" {
			t.Errorf("record of a terminal: %+v", r)
		}
	}
}

func TestWithoutALogPathOutputIsDropped(t *testing.T) {
	l := newLab(t)
	r := l.request("c", l.spec("c", "sh", "-c", "seq 50000; exit 3"))
	r.LogPath = ""
	l.run(r)
	if exit := l.finish("c"); exit.Code != 3 {
		t.Errorf("code %d", exit.Code)
	}
}
