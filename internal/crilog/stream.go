package crilog

import "bytes"

// MaxLine is the longest content of one record in bytes; a longer line is cut into partial records. The kubelet and
// the log agents expect no more.
const MaxLine = 16 << 10

// Stream turns the output of one stream into records. It is not safe for concurrent use; the streams of a File are
// independent of each other.
type Stream struct {
	file *File
	name string
	rest []byte // a line that has not ended yet, at most MaxLine
	out  []byte // reused
}

// Stream gives a writer for one stream, "stdout" or "stderr".
func (f *File) Stream(name string) *Stream { return &Stream{file: f, name: name} }

// Head is how many bytes stand before the content of each record.
func (s *Stream) Head() int { return len(stampLayout) + len(s.name) + len(" ") + len(" F ") }

// Write takes a piece of output. It never fails and never keeps p.
func (s *Stream) Write(p []byte) (int, error) {
	n := len(p)
	stamp := now()
	s.out = s.out[:0]
	for len(p) > 0 {
		end := bytes.IndexByte(p, '\n')
		line := p
		if end >= 0 {
			line = p[:end]
		}
		room := MaxLine - len(s.rest)
		if len(line) > room { // more than a record holds, whatever comes after it
			s.record(stamp, 'P', line[:room])
			p = p[room:]
			continue
		}
		if end < 0 {
			s.rest = append(s.rest, line...)
			break
		}
		s.record(stamp, 'F', line)
		p = p[end+1:]
	}
	if len(s.out) > 0 {
		s.file.append(s.out)
	}
	return n, nil
}

// End writes what is left of a line without an end. It is written as a full line: readers wait for one after a
// partial record.
func (s *Stream) End() {
	if len(s.rest) == 0 {
		return
	}
	s.out = s.out[:0]
	s.record(now(), 'F', nil)
	s.file.append(s.out)
}

func (s *Stream) record(stamp []byte, tag byte, content []byte) {
	s.out = append(s.out, stamp...)
	s.out = append(s.out, ' ')
	s.out = append(s.out, s.name...)
	s.out = append(s.out, ' ', tag, ' ')
	s.out = append(s.out, s.rest...)
	s.out = append(s.out, content...)
	s.out = append(s.out, '\n')
	s.rest = s.rest[:0]
}
