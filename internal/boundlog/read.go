package boundlog

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// rotations is how often a log may be rotated just while a reader opens it, before that does without the older part.
const rotations = 10

// Read gives what is kept at path, the older part first; limit is in bytes and the one that the writer has. What comes is
// without a gap, also while the log is written and rotated. os.ErrNotExist: there is none.
func Read(path string, limit int64) ([]byte, error) {
	older, newer, err := openParts(path)
	if err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	defer newer.Close()
	var text []byte
	for _, f := range []*os.File{older, newer} {
		if f == nil {
			continue
		}
		part, err := io.ReadAll(io.LimitReader(f, limit))
		if err != nil {
			return nil, fmt.Errorf("read log %s: %w", path, err)
		}
		text = append(text, part...)
	}
	if older != nil {
		_ = older.Close()
	}
	return text, nil
}

// openParts opens both files at one moment: what they are called afterwards does not matter. There may be no older one.
func openParts(path string) (older, newer *os.File, err error) {
	for i := 0; ; i++ {
		newer, err = openPart(path)
		if errors.Is(err, fs.ErrNotExist) {
			// Between the two steps of a rotation the older part is all that there is.
			if newer, gone := openPart(path + ".1"); gone == nil {
				return nil, newer, nil
			}
		}
		if err != nil {
			return nil, nil, err
		}
		older, err = openPart(path + ".1")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			_ = newer.Close()
			return nil, nil, err
		}
		// The same file is still the newer part: the other one has been the older one meanwhile.
		if same(path, newer) {
			return older, newer, nil
		}
		if older != nil {
			_ = older.Close()
		}
		if i == rotations {
			return nil, newer, nil
		}
		_ = newer.Close()
	}
}

func same(path string, f *os.File) bool {
	now, err := os.Lstat(path)
	if err != nil {
		return false
	}
	st, err := f.Stat()
	return err == nil && os.SameFile(st, now)
}

func openPart(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is no plain file", path)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}
