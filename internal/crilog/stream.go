package crilog

import (
	"bytes"
	"sync"
)

const (
	// MaxLine is the longest content of one record in bytes; a longer line is cut into partial records. The kubelet and
	// the log agents expect no more.
	MaxLine = 16 << 10
	// outMax is how many bytes of records are appended at a time, and the largest buffer for them: an empty line of one byte
	// becomes a record of forty.
	outMax = 64 << 10
	// keepMax bounds what a stream keeps for the beginning of a line while it has none.
	keepMax = 1 << 10
)

// outs are the buffers for records, shared by all streams: one that writes nothing has none.
var outs = sync.Pool{New: func() any { b := make([]byte, 0, outMax); return &b }}

// Stream turns the output of one stream into records. It is not safe for concurrent use; the streams of a File are
// independent of each other.
type Stream struct {
	file *File
	name string
	rest []byte // a line that has not ended yet, at most MaxLine
}

// Stream gives a writer for one stream, "stdout" or "stderr".
func (f *File) Stream(name string) *Stream { return &Stream{file: f, name: name} }

// Head is how many bytes stand before the content of each record.
func (s *Stream) Head() int { return len(stampLayout) + len(s.name) + len(" ") + len(" F ") }

// Write takes a piece of output. It never fails and never keeps p.
func (s *Stream) Write(p []byte) (int, error) {
	n := len(p)
	stamp := now()
	out := outs.Get().(*[]byte)
	for len(p) > 0 {
		end := bytes.IndexByte(p, '\n')
		line := p
		if end >= 0 {
			line = p[:end]
		}
		room := MaxLine - len(s.rest)
		if len(line) > room { // more than a record holds, whatever comes after it
			s.record(out, stamp, 'P', line[:room])
			p = p[room:]
			continue
		}
		if end < 0 {
			s.rest = append(s.rest, line...)
			break
		}
		s.record(out, stamp, 'F', line)
		p = p[end+1:]
	}
	s.flush(out)
	outs.Put(out)
	return n, nil
}

// End writes what is left of a line without an end. It is written as a full line: readers wait for one after a
// partial record.
func (s *Stream) End() {
	if len(s.rest) == 0 {
		return
	}
	out := outs.Get().(*[]byte)
	s.record(out, now(), 'F', nil)
	s.flush(out)
	outs.Put(out)
}

// record adds a record to a buffer, which is written first where it has no room for it.
func (s *Stream) record(to *[]byte, stamp []byte, tag byte, content []byte) {
	if len(*to)+s.Head()+len(s.rest)+len(content)+len("\n") > outMax {
		s.flush(to)
	}
	out := append(*to, stamp...)
	out = append(out, ' ')
	out = append(out, s.name...)
	out = append(out, ' ', tag, ' ')
	out = append(out, s.rest...)
	out = append(out, content...)
	*to = append(out, '\n')
	if s.rest = s.rest[:0]; cap(s.rest) > keepMax {
		s.rest = nil
	}
}

// flush appends whole records to the file.
func (s *Stream) flush(out *[]byte) {
	if len(*out) > 0 {
		s.file.append(*out)
		*out = (*out)[:0]
	}
}
