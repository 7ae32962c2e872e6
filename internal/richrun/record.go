package richrun

import (
	"strconv"
	"strings"
	"time"
)

// RecordMax bounds what is read of a record, in bytes: root in the container can write to it. What a launcher writes is less
// (init/record.h).
const RecordMax = 1 << 20

// RestartsMax bounds an application's restarts inside (RESTARTS_MAX of init/app.h): that the last line can be read.
const RestartsMax = 10_000

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
	Begun  bool  // a launcher has the record locked, or had
	Runs   []Run // the last RunsMax of them
	Starts int   // of all
	Done   bool  // nothing will be started any more
	Code   int   // of the container, once Done
	DoneAt time.Time
	Units  []string // units that have failed, once for each time, but UnitTimes for one at most
	// UnitsFirst is how many of them failed before Done: others may have failed because of the shutdown.
	UnitsFirst int
}

// RunsMax is how many starts a Record tells of, UnitTimes how many failures of one unit, and UnitsMax of all.
const (
	RunsMax   = 32
	UnitTimes = 8
	UnitsMax  = 1024
)

// parser is a Record while it is read.
type parser struct {
	Record
	times map[string]int // failures of each unit
}

// ParseRecord reads a record (init/record.h). Whatever is no line of a launcher is left out: the container's root can
// write there, and lies to nobody but about itself.
func ParseRecord(text []byte) Record {
	r := parser{times: map[string]int{}}
	for line := range strings.Lines(string(text)) {
		if !strings.HasSuffix(line, "\n") {
			break // being written
		}
		r.line(strings.TrimSuffix(line, "\n"))
	}
	return r.Record
}

// lineMax is more bytes than the longest line of a launcher has.
const lineMax = wordMax + 64

func (r *parser) line(line string) {
	if line == "" || len(line) > lineMax {
		return
	}
	words := strings.SplitN(line, " ", 6)
	kind, words := words[0], words[1:]
	switch {
	case kind == "unit" && len(words) == 1 && plain(words[0]):
		r.unit(words[0])
	case r.Done:
	case kind == "begin" && len(words) == 0:
		r.Begun = true
	case kind == "start" && len(words) == 3:
		if n, ok := numbers(words); ok {
			r.add(Run{N: int(n[0]), PID: int(n[1]), StartedAt: time.Unix(0, n[2])})
		}
	case kind == "failed" && len(words) == 3 && plain(words[2]):
		if n, ok := numbers(words[:2]); ok {
			r.add(Run{N: int(n[0]), Failed: words[2], Errno: int(n[1])})
		}
	case kind == "end" && len(words) >= 4:
		how := words[1]
		if n, ok := numbers([]string{words[0], words[2], words[3]}); ok {
			r.end(int(n[0]), how, int(n[1]), n[2], len(words) == 5 && words[4] == "oom")
		}
	case kind == "done" && len(words) == 2:
		if n, ok := numbers(words); ok {
			r.Done, r.Code, r.DoneAt = true, int(n[0])&0xff, time.Unix(0, n[1])
		}
	}
}

// numbers reads decimal ones; false: not all words are.
func numbers(words []string) (n [3]int64, ok bool) {
	for i, word := range words {
		var err error
		if n[i], err = strconv.ParseInt(word, 10, 64); err != nil {
			return n, false
		}
	}
	return n, true
}

func (r *parser) unit(name string) {
	if len(r.Units) == UnitsMax || r.times[name] == UnitTimes {
		return
	}
	r.times[name]++
	r.Units = append(r.Units, name)
	if !r.Done {
		r.UnitsFirst++
	}
}

// wordMax bounds a word of a record (RECORD_LINE of init/record.h), in bytes.
const wordMax = 255

// plain says whether a word is one that a launcher writes.
func plain(word string) bool {
	return word != "" && len(word) <= wordMax && !strings.ContainsFunc(word, func(r rune) bool { return r <= ' ' || r > '~' })
}

func (r *parser) add(run Run) {
	r.Starts++
	if len(r.Runs) == RunsMax {
		r.Runs = r.Runs[1:]
	}
	r.Runs = append(r.Runs, run)
}

func (r *parser) end(n int, how string, code int, at int64, oom bool) {
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
