package crilog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

const (
	// maxEntry bounds one line of the file, in bytes; the runtime writes at most 16 KiB and a head.
	maxEntry = 1 << 20
	readSize = 64 << 10
	// askEvery is how often it is asked whether the container still runs.
	askEvery = time.Second
)

// Print writes what the log at path holds now.
func Print(path string, o Options) error {
	f, err := open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	r := &reader{f: f, p: newPrinter(o)}
	if err := r.seekTail(o.Tail); err != nil {
		return err
	}
	if err := r.drain(); err != nil {
		return err
	}
	return r.flush()
}

// Follow writes what the log at path holds and then what is added, through rotations, until ctx ends or running says that
// nothing more will come. running is asked each second.
func Follow(ctx context.Context, path string, o Options, running func(context.Context) (bool, error)) error {
	// The folder is watched, for the file is replaced when it is rotated; it is watched before the file is read, so
	// that nothing between the two is missed.
	path = filepath.Clean(path)
	watcher, err := fsnotify.NewBufferedWatcher(256)
	if err != nil {
		return fmt.Errorf("watch %s: %w", path, err)
	}
	defer watcher.Close()
	if err := watcher.Add(filepath.Dir(path)); err != nil {
		return fmt.Errorf("watch the folder of %s: %w", path, err)
	}
	f, err := open(path)
	if err != nil {
		return err
	}
	r := &reader{f: f, p: newPrinter(o), path: path}
	defer func() { r.f.Close() }()
	if err := r.seekTail(o.Tail); err != nil {
		return err
	}
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for changed := true; ; {
		if changed {
			if err := r.catchUp(); err != nil {
				return err
			}
		}
		changed = true
		select {
		case <-ctx.Done():
			return nil
		case e := <-watcher.Events:
			wanted := e.Name == path
			for len(watcher.Events) > 0 { // what has come meanwhile is read in one go
				e = <-watcher.Events
				wanted = wanted || e.Name == path
			}
			changed = wanted
		case err := <-watcher.Errors:
			if !errors.Is(err, fsnotify.ErrEventOverflow) {
				return fmt.Errorf("watch %s: %w", path, err)
			}
		case <-tick.C:
			more, err := running(ctx)
			if err != nil {
				return err
			}
			if !more {
				// The log is complete when the container has ended.
				if err := r.catchUp(); err != nil {
					return err
				}
				return r.flush()
			}
		}
	}
}

// open opens a log file; nothing else is waited for or followed.
func open(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("log %s is no regular file", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// reader reads entries of a file that may still grow.
type reader struct {
	f      *os.File
	p      *printer
	path   string
	offset int64
	rest   []byte // the beginning of an entry whose end is not there yet
}

func (r *reader) seekTail(n int) error {
	info, err := r.f.Stat()
	if err != nil {
		return err
	}
	r.offset, err = tailOffset(r.f, info.Size(), n)
	return err
}

// drain prints what has been added.
func (r *reader) drain() error {
	buf := make([]byte, readSize)
	for {
		n, err := r.f.ReadAt(buf, r.offset)
		r.offset += int64(n)
		r.rest = append(r.rest, buf[:n]...)
		for {
			i := bytes.IndexByte(r.rest, '\n')
			if i < 0 {
				break
			}
			if err := r.p.print(r.rest[:i]); err != nil {
				return err
			}
			r.rest = r.rest[i+1:]
		}
		if len(r.rest) > maxEntry {
			if err := r.flush(); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the log: %w", err)
		}
	}
}

// flush prints an entry that was cut off.
func (r *reader) flush() error {
	if len(r.rest) == 0 {
		return nil
	}
	defer func() { r.rest = nil }()
	return r.p.print(r.rest)
}

// catchUp prints all there is: the rest of this file and, if it has been rotated away, the beginning of the next.
func (r *reader) catchUp() error {
	for {
		// The look comes before the reading: once something stands in the new file, nothing more comes to the old.
		next, err := r.successor()
		if err != nil {
			return err
		}
		if err := r.drain(); err != nil || next == nil {
			if next != nil {
				next.Close()
			}
			return err
		}
		r.f.Close()
		r.f, r.offset = next, 0
		if err := r.flush(); err != nil {
			return err
		}
	}
}

// successor opens the file at the path if it is another one than the open one and written to, or starts over if the open
// one was truncated.
func (r *reader) successor() (*os.File, error) {
	next, err := open(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // between rename and reopen, or the container is removed
	}
	if err != nil {
		return nil, err
	}
	old, err1 := r.f.Stat()
	now, err2 := next.Stat()
	if err := errors.Join(err1, err2); err != nil {
		next.Close()
		return nil, err
	}
	same := os.SameFile(old, now)
	if !same && now.Size() > 0 {
		return next, nil
	}
	if same && now.Size() < r.offset {
		r.offset, r.rest = 0, nil
	}
	return nil, next.Close()
}
