package cri

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/crash"
	"github.com/cri-pouch/cri-pouch/internal/pollfile"
)

// pipeMax is the largest size of a pipe (pipe(7), pipe-max-size).
const pipeMax = 1 << 20

// fifo collects what an exec'd process writes to one of its streams.
type fifo struct {
	path string
	file *pollfile.File

	mu     sync.Mutex
	buf    []byte
	budget *budget
	done   chan struct{}
}

// newFIFO makes a FIFO and opens its read end, so that the writer's open does not block.
func newFIFO(path string) (*fifo, error) {
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return nil, fmt.Errorf("make FIFO %s: %w", path, err)
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open FIFO %s: %w", path, err)
	}
	return &fifo{path: path, file: pollfile.New(fd, path)}, nil
}

// collect reads in the background, keeping what the budget allows. It must be called when the writer has opened the FIFO:
// before, a read would see the end of it.
func (f *fifo) collect(b *budget) {
	f.budget, f.done = b, make(chan struct{})
	crash.Go(nil, "read the output of an exec", func() {
		defer close(f.done)
		chunk := make([]byte, 32<<10)
		for {
			n, err := f.file.Read(chunk)
			f.keep(chunk[:n])
			if err != nil {
				return
			}
		}
	})
}

func (f *fifo) keep(b []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.buf = append(f.buf, b[:f.budget.take(len(b))]...)
}

// finish gives what was written until now: it stops the reader and takes what still stands in the pipe.
func (f *fifo) finish() []byte {
	_ = f.file.SetReadDeadline(time.Unix(1, 0))
	<-f.done
	rest, err := f.file.SyscallConn()
	if err == nil {
		_ = f.file.SetReadDeadline(time.Time{})
		_ = rest.Read(func(fd uintptr) bool {
			f.drain(int(fd))
			return true
		})
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.buf
}

// drain reads until the pipe is empty, at most what the largest pipe holds: a child that writes on must not hold it up.
func (f *fifo) drain(fd int) {
	chunk := make([]byte, 32<<10)
	for total := 0; total < pipeMax; {
		n, err := unix.Read(fd, chunk)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if n <= 0 || err != nil {
			return
		}
		f.keep(chunk[:n])
		total += n
	}
}

func (f *fifo) close() {
	if err := f.file.Close(); err == nil && f.done != nil {
		<-f.done
	}
}
