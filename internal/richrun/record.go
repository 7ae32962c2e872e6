package richrun

import (
	"fmt"
	"strings"
	"time"
)

// RecordMax bounds what is read of a record: root in the container can write to it.
const RecordMax = 1 << 20

// Run is one start of the application.
type Run struct {
	N         int
	PID       int // as the container sees it
	StartedAt time.Time
	Ended     bool
	EndedAt   time.Time
	Code      int  // 128+n for a signal n
	Signal    int  // 0: it exited
	OOM       bool // the OOM killer struck in the application's own cgroup
	// Failed says what could not be done before the program ran, with Errno; then nothing else but N is set.
	Failed string
	Errno  int
}

// Record is what the launcher has done so far.
type Record struct {
	Runs   []Run // the last RunsMax of them
	Starts int   // of all
	Done   bool  // nothing will be started any more
	Code   int   // of the container, once Done
	DoneAt time.Time
	Units  []string // watched units that have failed
	// UnitsFirst is how many of them failed before Done: others may have failed because of the shutdown.
	UnitsFirst int
}

// RunsMax is how many starts a Record tells of.
const RunsMax = 32

// ParseRecord reads a record (init/launch.c). Whatever is no line of a launcher is left out: the container's root can
// write there, and lies to nobody but about itself.
func ParseRecord(text []byte) Record {
	var r Record
	for line := range strings.Lines(string(text)) {
		if !strings.HasSuffix(line, "\n") {
			break // being written
		}
		r.line(strings.TrimSuffix(line, "\n"))
	}
	return r
}

func (r *Record) line(line string) {
	var n, pid, code, errno int
	var at int64
	var word string
	switch {
	case r.Done && !strings.HasPrefix(line, "unit "):
	case scan(line, "start %d %d %d", &n, &pid, &at):
		r.add(Run{N: n, PID: pid, StartedAt: time.Unix(0, at)})
	case scan(line, "failed %d %d %s", &n, &errno, &word) && plain(word):
		r.add(Run{N: n, Failed: word, Errno: errno})
	case scan(line, "end %d %s %d %d", &n, &word, &code, &at):
		r.end(n, word, code, at, strings.HasSuffix(line, " oom"))
	case scan(line, "done %d %d", &code, &at):
		r.Done, r.Code, r.DoneAt = true, code&0xff, time.Unix(0, at)
	case scan(line, "unit %s", &word) && plain(word):
		if len(r.Units) < RunsMax {
			r.Units = append(r.Units, word)
			if !r.Done {
				r.UnitsFirst++
			}
		}
	}
}

func scan(line, format string, into ...any) bool {
	n, err := fmt.Sscanf(line, format, into...)
	return err == nil && n == len(into)
}

// wordMax bounds a word of a record (LINE of init/launch.c), in bytes.
const wordMax = 255

// plain says whether a word is one that a launcher writes.
func plain(word string) bool {
	return len(word) <= wordMax && !strings.ContainsFunc(word, func(r rune) bool { return r <= ' ' || r > '~' })
}

func (r *Record) add(run Run) {
	r.Starts++
	if len(r.Runs) == RunsMax {
		r.Runs = r.Runs[1:]
	}
	r.Runs = append(r.Runs, run)
}

func (r *Record) end(n int, how string, code int, at int64, oom bool) {
	if len(r.Runs) == 0 {
		return
	}
	run := &r.Runs[len(r.Runs)-1]
	if run.N != n || run.Ended || run.Failed != "" {
		return
	}
	run.Ended, run.EndedAt, run.Code, run.OOM = true, time.Unix(0, at), code&0xff, oom
	if how == "signal" {
		run.Signal, run.Code = code, 128+code&0x7f
	}
}

// Running gives the start that has not ended yet.
func (r Record) Running() (Run, bool) {
	if n := len(r.Runs); n > 0 && !r.Runs[n-1].Ended && r.Runs[n-1].Failed == "" && !r.Done {
		return r.Runs[n-1], true
	}
	return Run{}, false
}
