// Package crilog writes the log of a container in the format of CRI: one line "TIMESTAMP STREAM TAG CONTENT" for each
// line of output, TAG being F for a line that ends here and P for one that goes on in the next record of its stream
// (k8s.io/cri-api, docs of the kubelet's log format).
package crilog

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// File is the log file of one container, written by its streams together. The zero path gives a File that drops all.
type File struct {
	path    string
	onError func(error)

	mu     sync.Mutex
	file   *os.File
	closed bool
	broken bool // a failure of this file has been reported
}

// New gives the log at an absolute path; an empty path drops everything, and so does a log that Reopen has not opened
// yet. onError is told of the first failed write to each file; it must not block.
func New(path string, onError func(error)) (*File, error) {
	if path != "" && !filepath.IsAbs(path) {
		return nil, fmt.Errorf("log path %q is not absolute: %w", path, errdefs.ErrInvalidArgument)
	}
	return &File{path: path, onError: onError}, nil
}

// open follows a symlink neither at the file nor at the folder that holds it: others than the kubelet may be able to
// write there. Anything but a regular file is refused, a FIFO could block the shim.
func open(path string) (*os.File, error) {
	dir, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open folder of log %s: %w", path, err)
	}
	defer unix.Close(dir)
	const flags = unix.O_WRONLY | unix.O_APPEND | unix.O_CREAT | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC
	fd, err := unix.Openat(dir, filepath.Base(path), flags, 0o640)
	if err != nil {
		return nil, fmt.Errorf("open log %s: %w", path, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("look at log %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		unix.Close(fd)
		return nil, fmt.Errorf("log %s is not a regular file: %w", path, errdefs.ErrInvalidArgument)
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("open log %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// Reopen opens (makes, mode 0640) the file at the path: at first, and after the old one was renamed. When it fails,
// writing goes on in the old file.
func (f *File) Reopen() error {
	if f.path == "" {
		return nil
	}
	next, err := open(f.path)
	if err != nil {
		return err
	}
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return next.Close()
	}
	old := f.file
	f.file, f.broken = next, false
	f.mu.Unlock()
	if old != nil {
		return old.Close()
	}
	return nil
}

// Close ends the log; what streams write later is dropped.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	if f.file == nil {
		return nil
	}
	err := f.file.Close()
	f.file = nil
	return err
}

// append writes whole records. A failure, such as a full disk, costs these records and nothing else: the container must
// neither block nor die for its log.
func (f *File) append(records []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.file == nil {
		return
	}
	n, err := f.file.Write(records)
	if err == nil {
		return
	}
	if half := int64(n - bytes.LastIndexByte(records[:n], '\n') - 1); half > 0 { // it would spoil the next record
		if st, serr := f.file.Stat(); serr == nil && st.Size() >= half {
			_ = f.file.Truncate(st.Size() - half)
		}
	}
	if !f.broken {
		f.broken = true
		f.onError(fmt.Errorf("write log %s, output is lost while this lasts: %w", f.path, err))
	}
}

// now is in UTC and has nine digits always, so that records line up and sort.
func now() []byte { return time.Now().UTC().AppendFormat(make([]byte, 0, 40), stampLayout) }

// stampLayout is RFC 3339 with all digits of the nanoseconds, in UTC: each stamp is as long as the layout.
const stampLayout = "2006-01-02T15:04:05.000000000Z"
