package boundlog

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// rotations is how often a log may be rotated under a reader before that gives up: none is rotated so often.
const rotations = 5

// Read gives what is kept at path, the older part first; limit is in bytes and the one that the writer has. A log that is
// being written is read as it is at one moment. os.ErrNotExist: there is none.
func Read(path string, limit int64) ([]byte, error) {
	for range rotations {
		newer, st, err := readPart(path, limit)
		if errors.Is(err, fs.ErrNotExist) {
			// Between the two steps of a rotation there is only the older part; without one there is no log.
			if _, gone := os.Lstat(path + ".1"); gone != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		older, _, err := readPart(path+".1", limit)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		// The same file is still the newer part: the other one was the older one all the time.
		if now, err := os.Lstat(path); err == nil && os.SameFile(st, now) {
			return append(older, newer...), nil
		}
	}
	return nil, fmt.Errorf("log %s is written faster than it can be read", path)
}

// readPart reads one of the two files. One entry may be longer than the limit.
func readPart(path string, limit int64) ([]byte, os.FileInfo, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("read log: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, nil, fmt.Errorf("read log: %w", err)
	}
	if !st.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("log %s is no plain file", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return nil, nil, fmt.Errorf("read log %s: %w", path, err)
	}
	return b, st, nil
}
