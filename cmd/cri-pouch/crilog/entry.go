// Package crilog reads the log files of containers in CRI's format: the end of one, and what is written to it from then
// on, also when it is rotated.
package crilog

import (
	"bytes"
	"fmt"
	"io"
	"time"
)

// entry is one line of a log file: "2026-01-02T03:04:05.000000006Z stdout F text" (kubernetes design: CRI log format).
type entry struct {
	timestamp string
	stderr    bool
	partial   bool // the container's line goes on in the next entry of this stream
	text      []byte
}

// parse reads a line without its newline.
func parse(line []byte) (entry, error) {
	timestamp, rest, ok1 := bytes.Cut(line, []byte(" "))
	stream, rest, ok2 := bytes.Cut(rest, []byte(" "))
	tags, text, ok3 := bytes.Cut(rest, []byte(" "))
	if !ok3 { // an empty line may have lost its last space
		tags = rest
	}
	e := entry{timestamp: string(timestamp), stderr: string(stream) == "stderr", text: text}
	if _, err := time.Parse(time.RFC3339Nano, e.timestamp); !ok1 || !ok2 || err != nil || !e.stderr && string(stream) != "stdout" {
		return e, fmt.Errorf("no entry of a CRI log: %.40q", line)
	}
	// Tags are separated by colons; the first says whether the line is whole.
	first, _, _ := bytes.Cut(tags, []byte(":"))
	switch string(first) {
	case "P":
		e.partial = true
	case "F":
	default:
		return e, fmt.Errorf("no entry of a CRI log: %.40q", line)
	}
	return e, nil
}

// Options say what of a log is printed, and how.
type Options struct {
	Tail       int // the last lines of the container's; negative: all
	Timestamps bool
	Stdout     io.Writer // gets what the container wrote to stdout
	Stderr     io.Writer // and to stderr
}

// printer puts the container's lines together again.
type printer struct {
	Options
	// open says, for stdout and stderr, that the line printed last has not ended.
	open map[bool]bool
}

func newPrinter(o Options) *printer { return &printer{Options: o, open: map[bool]bool{}} }

// print writes one line of the file. What is no entry is passed on to stderr as it is: better shown than lost.
func (p *printer) print(line []byte) error {
	e, err := parse(line)
	if err != nil {
		_, err := fmt.Fprintf(p.Stderr, "%s\n", line)
		return err
	}
	w := p.Stdout
	if e.stderr {
		w = p.Stderr
	}
	var out []byte
	if p.Timestamps && !p.open[e.stderr] {
		out = append(append(out, e.timestamp...), ' ')
	}
	out = append(out, e.text...)
	if !e.partial {
		out = append(out, '\n')
	}
	p.open[e.stderr] = e.partial
	_, err = w.Write(out)
	return err
}
