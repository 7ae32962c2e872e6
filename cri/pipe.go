package cri

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/crash"
	"github.com/cri-pouch/cri-pouch/internal/pollfile"
)

// pipes are the FIFOs between a stream's client and a process: the process has them as its stdio, or the shim copies
// to and from them. Folder and FIFOs are gone after close.
type pipes struct {
	dir            string
	remove         func(dir string)
	stdin          *inPipe  // nil: not asked for
	stdout, stderr *outPipe // stderr is nil with a terminal
}

// newPipes makes the FIFOs in a new folder. stdout is always there: its reading end tells the shim that this daemon
// lives. remove is called with the folder in the end.
func newPipes(dir string, remove func(dir string), stdin, stderr bool) (_ *pipes, err error) {
	p := &pipes{dir: dir, remove: remove}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make folder of a stream: %w", err)
	}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if stdin {
		if p.stdin, err = newInPipe(filepath.Join(dir, "stdin")); err != nil {
			return nil, err
		}
	}
	if p.stdout, err = newOutPipe(filepath.Join(dir, "stdout")); err != nil {
		return nil, err
	}
	if stderr {
		if p.stderr, err = newOutPipe(filepath.Join(dir, "stderr")); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// paths gives what a request to the shim says; empty for what is not there.
func (p *pipes) paths() (stdin, stdout, stderr string) {
	if p.stdin != nil {
		stdin = p.stdin.path
	}
	if p.stderr != nil {
		stderr = p.stderr.path
	}
	return stdin, p.stdout.path, stderr
}

// connect begins to copy between the client and the other side, which has opened the FIFOs. What the client sends after the
// other side's last is dropped.
func (p *pipes) connect(in io.Reader, out, errOut io.Writer) {
	if p.stdin != nil {
		p.stdin.connect()
		crash.Go(nil, "copy a client's input", func() { p.stdin.copyFrom(in) })
	}
	p.stdout.copyTo(out)
	if p.stderr != nil {
		p.stderr.copyTo(errOut)
	}
}

// finish takes no more from the client and returns when it has all output that stands in the FIFOs.
func (p *pipes) finish() {
	if p.stdin != nil {
		p.stdin.close()
	}
	p.stdout.finish()
	if p.stderr != nil {
		p.stderr.finish()
	}
}

func (p *pipes) close() {
	if p.stdin != nil {
		p.stdin.close()
	}
	for _, o := range []*outPipe{p.stdout, p.stderr} {
		if o != nil {
			o.close()
		}
	}
	p.remove(p.dir)
}

// removeStreamDir removes the folder of a stream's FIFOs: later, where the machine lacks descriptors or memory for it now.
func (s *Service) removeStreamDir(dir string) {
	if err := os.RemoveAll(dir); err != nil {
		s.Log.WithError(err).Warn("cannot remove the folder of a stream yet, will try again")
		s.chores.run("remove the folder of a stream", time.Second, func(context.Context) error { return os.RemoveAll(dir) })
	}
}

// inPipe leads what the client sends into a FIFO.
type inPipe struct {
	path string

	mu   sync.Mutex
	file *pollfile.File // nil: closed
}

// newInPipe makes the FIFO and holds it open for both, so that nobody who opens it waits.
func newInPipe(path string) (*inPipe, error) {
	f, err := makePipe(path, unix.O_RDWR)
	if err != nil {
		return nil, err
	}
	return &inPipe{path: path, file: f}, nil
}

// connect gives up the reading end, now that the process has one of its own: from here on its end is the end of writing.
func (p *inPipe) connect() {
	fd, err := unix.Open(p.path, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.file != nil {
		_ = p.file.Close()
	}
	p.file = nil
	if err == nil { // else the process has no stdin any more
		p.file = pollfile.New(fd, p.path)
	}
}

// copyFrom writes everything that comes from in, then the end of file. It returns when in has ended, or when nobody reads
// any more; the rest of in is dropped then, since what else the client sends stands behind it.
func (p *inPipe) copyFrom(in io.Reader) {
	p.mu.Lock()
	f := p.file
	p.mu.Unlock()
	if f != nil {
		defer p.close()
		_, _ = io.Copy(f, in)
		p.close()
	}
	_, _ = io.Copy(io.Discard, in)
}

// close gives the process its end of file.
func (p *inPipe) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.file != nil {
		_ = p.file.Close()
		p.file = nil
	}
}

// outPipe leads what comes out of a FIFO to the client.
type outPipe struct {
	path string
	file *pollfile.File
	done chan struct{} // of copyTo
}

// newOutPipe makes the FIFO and opens its reading end.
func newOutPipe(path string) (*outPipe, error) {
	f, err := makePipe(path, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	return &outPipe{path: path, file: f}, nil
}

// copyTo copies in the background until the end of the stream or finish. What cannot be written, or with a nil out
// everything, is dropped: a client that has closed one stream must not stop the process.
func (p *outPipe) copyTo(out io.Writer) {
	p.done = make(chan struct{})
	crash.Go(nil, "copy output to a client", func() {
		defer close(p.done)
		chunk := make([]byte, 32<<10)
		for {
			n, err := p.file.Read(chunk)
			if n > 0 && out != nil {
				if err := crash.Try(nil, "write to a client", func() error { _, err := out.Write(chunk[:n]); return err }); err != nil {
					out = nil
				}
			}
			if errors.Is(err, os.ErrDeadlineExceeded) {
				p.rest(out, chunk)
			}
			if err != nil {
				return
			}
		}
	})
}

// rest copies what stands in the pipe, at most what the largest pipe holds: somebody may write on for ever.
func (p *outPipe) rest(out io.Writer, chunk []byte) {
	raw, err := p.file.SyscallConn()
	if err != nil {
		return
	}
	for total := 0; total < pipeMax; {
		var n int
		err := raw.Control(func(fd uintptr) {
			for {
				var readErr error
				if n, readErr = unix.Read(int(fd), chunk); readErr != unix.EINTR {
					return
				}
			}
		})
		if err != nil || n <= 0 {
			return
		}
		total += n
		if out != nil {
			if _, err := out.Write(chunk[:n]); err != nil {
				out = nil
			}
		}
	}
}

// finish ends the copying when all that was written until now has reached the client. It waits for the client.
func (p *outPipe) finish() {
	_ = p.file.SetReadDeadline(time.Unix(1, 0))
	<-p.done
}

// close lets go of the FIFO. A copy that waits for the client ends when the client's connection is closed.
func (p *outPipe) close() {
	_ = p.file.Close()
}

// makePipe makes a FIFO and opens it without waiting for the other side.
func makePipe(path string, flag int) (*pollfile.File, error) {
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return nil, fmt.Errorf("make FIFO %s: %w", path, err)
	}
	fd, err := unix.Open(path, flag|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open FIFO %s: %w", path, err)
	}
	return pollfile.New(fd, path), nil
}
