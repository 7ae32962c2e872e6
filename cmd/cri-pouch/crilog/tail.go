package crilog

import (
	"bytes"
	"io"
)

// tailBlock is how much is read at once from the end, in bytes.
const tailBlock = 64 << 10

// tailOffset gives where the last n lines of the container's begin in the first size bytes of f. Entries of one line count
// once; a last line that has not ended counts as well. A negative n means everything.
func tailOffset(f io.ReaderAt, size int64, n int) (int64, error) {
	if n < 0 {
		return 0, nil
	}
	var (
		pending []byte // of the entry whose beginning is not read yet
		ends    int    // entries that end a line, from the end of the file on
		start   = size // of the entries looked at so far
		last    = true // the next entry is the file's last
	)
	// visit looks at one entry and says whether it is before what is wanted.
	visit := func(line []byte) bool {
		e, err := parse(line)
		ended := err != nil || !e.partial
		if ended || last {
			ends++
		}
		last = false
		return ends > n
	}
	for pos := size; pos > 0; {
		length := min(int64(tailBlock), pos)
		pos -= length
		block := make([]byte, length, int(length)+len(pending))
		if _, err := f.ReadAt(block, pos); err != nil {
			return 0, err
		}
		block = append(block, pending...)
		for {
			body := bytes.TrimSuffix(block, []byte("\n"))
			i := bytes.LastIndexByte(body, '\n')
			if i < 0 {
				break
			}
			if visit(body[i+1:]) {
				return start, nil
			}
			block = block[:i+1]
			start = pos + int64(len(block))
		}
		pending = block
		if len(pending) > maxEntry {
			return start, nil // no entry is so long: what stands before is not ours
		}
	}
	if len(pending) > 0 && visit(bytes.TrimSuffix(pending, []byte("\n"))) {
		return start, nil
	}
	return 0, nil
}
