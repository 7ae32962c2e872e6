// Package boundlog is a log file that cannot fill a disk: at its limit it becomes NAME.1, and the file before that goes.
package boundlog

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// File is safe for concurrent use.
type File struct {
	path  string
	limit int64

	mu     sync.Mutex
	file   *os.File
	size   int64
	caught bool // descriptor 2 is to be this file
	stale  bool // descriptor 2 could not be made this file yet
}

// Open opens the file for appending, mode 0600; limit is in bytes, twice that is the most that is ever kept.
func Open(path string, limit int64) (*File, error) {
	f := &File{path: path, limit: limit}
	if err := f.open(); err != nil {
		return nil, err
	}
	return f, nil
}

func (f *File) open() error {
	file, err := os.OpenFile(f.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	st, err := file.Stat()
	if err != nil {
		file.Close()
		return fmt.Errorf("open log: %w", err)
	}
	f.file, f.size = file, st.Size()
	return nil
}

// CatchStderr makes the process's descriptor 2 this file, also after each rotation from then on, so that the text of a
// crash, which Go's runtime writes to descriptor 2 itself, stands in the log's newest part.
func (f *File) CatchStderr() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.caught = true
	return f.redirect()
}

// redirect makes descriptor 2 the file of now. f.mu is held.
func (f *File) redirect() error {
	f.stale = true
	if err := unix.Dup3(int(f.file.Fd()), 2, 0); err != nil {
		return fmt.Errorf("lead stderr into %s: %w", f.path, err)
	}
	f.stale = false
	return nil
}

// Write appends one entry.
func (f *File) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.size > 0 && f.size+int64(len(p)) > f.limit {
		if err := f.rotate(); err != nil {
			return 0, err
		}
	}
	if f.stale {
		_ = f.redirect() // it is tried again at the next entry
	}
	n, err := f.file.Write(p)
	f.size += int64(n)
	return n, err
}

// rotate begins a new file. Where that fails nothing is written until it succeeds: the bound counts for more.
func (f *File) rotate() error {
	// That the file is not there: it was renamed, and the new one could not be opened.
	if err := os.Rename(f.path, f.path+".1"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("rotate log: %w", err)
	}
	old := f.file
	if err := f.open(); err != nil {
		return err
	}
	_ = old.Close()
	f.stale = f.caught
	return nil
}

// Close closes the file.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.file.Close()
}
