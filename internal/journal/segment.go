package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// maxSegment is how much of a segment is read: what Add writes is less.
const maxSegment = 2 * segmentBytes

// maxNumber is above every number that Add can have given: one that is higher is damage.
const maxNumber = 1 << 62

// readSegment gives the entries of a file whose numbers grow from after on, and the size up to the end of the last whole
// line. An absent file has none.
func readSegment(path string, after uint64) (lines []line, whole int64, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("open the journal: %w", err)
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("open the journal: %s is not a plain file, move it away: %w", path, err)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSegment))
	if err != nil {
		return nil, 0, fmt.Errorf("read the journal: %w", err)
	}
	for {
		n := bytes.IndexByte(b, '\n') + 1
		if n == 0 || len(lines) == segmentEntries {
			return lines, whole, nil
		}
		text := b[:n:n]
		b, whole = b[n:], whole+int64(n)
		var e Entry
		if len(text) <= maxLine && json.Unmarshal(text, &e) == nil && e.Number > after && e.Number < maxNumber {
			lines, after = append(lines, line{e.Number, bytes.Clone(text)}), e.Number
		}
	}
}

func (j *Journal) openCurrent() error {
	path := filepath.Join(j.dir, currentName)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("open the journal: %w", err)
	}
	st, err := f.Stat()
	if err != nil {
		return errors.Join(fmt.Errorf("open the journal: %w", err), f.Close())
	}
	j.file, j.size = f, st.Size()
	return nil
}

// append writes a line to the current segment, beginning another one where that is full. Of a write that failed nothing
// stays.
func (j *Journal) append(text []byte) error {
	if j.file == nil {
		return os.ErrClosed
	}
	if j.current >= segmentEntries || j.current > 0 && j.size+int64(len(text)) > segmentBytes {
		err := j.rotate()
		if err == nil || j.current >= segmentEntries {
			j.lines = append([]line(nil), j.lines[len(j.lines)-j.current:]...)
			j.current = 0
		}
		if err != nil {
			return err
		}
	}
	n, err := j.file.Write(text)
	if err != nil && n > 0 {
		return errors.Join(err, j.cut(j.size))
	}
	j.size += int64(n)
	return err
}

// rotate makes the current segment the former one; the former one goes.
func (j *Journal) rotate() error {
	old := j.file
	err := os.Rename(filepath.Join(j.dir, currentName), filepath.Join(j.dir, formerName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // gone already: a try before this one got no further
		return fmt.Errorf("begin another segment: %w", err)
	}
	if err := j.openCurrent(); err != nil {
		return err
	}
	return old.Close()
}

// cut shortens the current segment.
func (j *Journal) cut(size int64) error {
	if err := j.file.Truncate(size); err != nil {
		return fmt.Errorf("cut a torn line off the journal: %w", err)
	}
	j.size = size
	return nil
}

// search gives the index of the first line with a number above after.
func search(lines []line, after uint64) int {
	return sort.Search(len(lines), func(i int) bool { return lines[i].number > after })
}

// cutText bounds a text, between runes.
func cutText(s string, limit int) string {
	if len(s) > limit {
		const more = "…"
		cut := limit - len(more)
		for cut > 0 && !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut] + more
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
