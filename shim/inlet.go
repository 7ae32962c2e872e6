package shim

import (
	"fmt"
	"io"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/pollfile"
)

// inlet is a container's stdin: the writing end of a FIFO, or a terminal's master. Each client that types has a descriptor
// of its own, so that it can be taken away while it waits for the container.
type inlet struct {
	mu     sync.Mutex
	base   *pollfile.File // nil: there is none, or it was closed
	owned  bool           // base is closed with the inlet; a terminal's master is its follower's
	typing map[*pollfile.File]struct{}
}

var errNoStdin = fmt.Errorf("the container has no stdin, or it was closed: %w", errdefs.ErrFailedPrecondition)

// open gives a descriptor to write to; release takes it back, whoever uses it.
func (i *inlet) open() (*pollfile.File, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.base == nil {
		return nil, errNoStdin
	}
	raw, err := i.base.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("open stdin: %w", err)
	}
	fd := -1
	var dupErr error
	err = raw.Control(func(base uintptr) { fd, dupErr = unix.FcntlInt(base, unix.F_DUPFD_CLOEXEC, 3) })
	if err == nil {
		err = dupErr
	}
	if err != nil {
		return nil, fmt.Errorf("open stdin: %w", err)
	}
	f := pollfile.New(fd, i.base.Name())
	if i.typing == nil {
		i.typing = map[*pollfile.File]struct{}{}
	}
	i.typing[f] = struct{}{}
	return f, nil
}

// release closes a descriptor that open gave.
func (i *inlet) release(f *pollfile.File) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.typing, f)
	_ = f.Close()
}

// close ends the input for good: a FIFO's reader gets an end of file.
func (i *inlet) close() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	for f := range i.typing {
		_ = f.Close()
	}
	i.typing = nil
	base := i.base
	i.base = nil
	if base == nil || !i.owned {
		return nil
	}
	return base.Close()
}

// take copies from a client to a descriptor that open gave, until the client ends its input or either is closed. When
// nobody takes the input any more, or to is nil, it is dropped: other streams of the client may stand behind it.
func take(from, to *pollfile.File) {
	if to != nil {
		_, _ = io.Copy(plainWriter{to}, plainReader{from})
	}
	_, _ = io.Copy(io.Discard, plainReader{from})
}

// plainWriter and plainReader keep io.Copy from splice(2), which a closed descriptor does not interrupt on all kernels and
// which terminals do not know.
type plainWriter struct{ io.Writer }
type plainReader struct{ io.Reader }
