package shim

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/crash"
	"github.com/cri-pouch/cri-pouch/internal/exhaustion"
	"github.com/cri-pouch/cri-pouch/internal/failpoint"
	"github.com/cri-pouch/cri-pouch/internal/pollfile"
)

// pieces are read buffers, shared by all followers: one that waits holds none. 64 KiB is a pipe's size.
var pieces = sync.Pool{New: func() any { b := make([]byte, 64<<10); return &b }}

// follower moves what comes out of a FIFO or a terminal's master into a writer. It waits on the network poller.
type follower struct {
	from *pollfile.File
	to   io.Writer
	end  func() // called once, after the last write
	done chan struct{}
	once sync.Once
}

func newFollower(from *pollfile.File, to io.Writer, end func()) *follower {
	return &follower{from: from, to: to, end: end, done: make(chan struct{})}
}

func (f *follower) start() { f.once.Do(func() { crash.Go(nil, "follow output", f.run) }) }

func (f *follower) run() {
	defer close(f.done)
	defer f.end()
	raw, err := f.from.SyscallConn()
	if err != nil {
		return
	}
	for pause := (exhaustion.Pause{}); ; {
		var piece *[]byte
		var n int
		var readErr error
		err := raw.Read(func(fd uintptr) bool {
			piece = pieces.Get().(*[]byte)
			if n, readErr = read(int(fd), *piece); errors.Is(readErr, unix.EAGAIN) {
				pieces.Put(piece)
				piece = nil
				return false
			}
			return true
		})
		if piece != nil {
			if n > 0 {
				f.write((*piece)[:n])
			}
			pieces.Put(piece)
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			f.rest()
			return
		}
		if err == nil && exhaustion.Is(readErr) { // what stands in the pipe stays there
			time.Sleep(pause.Next())
			continue
		}
		pause.Reset()
		// A terminal whose last slave is closed gives EIO.
		if err != nil || readErr != nil || n == 0 {
			return
		}
	}
}

// write passes a piece on. A panic costs this piece: a program whose output nobody reads any more would stop.
func (f *follower) write(p []byte) {
	crash.Run(nil, "write output", func() {
		failpoint.Hit("shim.output")
		_, _ = f.to.Write(p)
	})
}

// rest takes what stands in the pipe when the time is up: as much as a pipe can hold and no more, since somebody may
// write on for ever.
func (f *follower) rest() {
	_ = f.from.SetReadDeadline(time.Time{})
	raw, err := f.from.SyscallConn()
	if err != nil {
		return
	}
	piece := pieces.Get().(*[]byte)
	defer pieces.Put(piece)
	_ = raw.Control(func(fd uintptr) {
		for left := len(*piece); left > 0; {
			n, err := read(int(fd), (*piece)[:left])
			if err != nil || n == 0 {
				return
			}
			f.write((*piece)[:n])
			left -= n
		}
	})
}

func read(fd int, b []byte) (int, error) {
	for {
		n, err := unix.Read(fd, b)
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}

// finish waits for the end of the stream, at most until the deadline, and closes the shim's end.
func (f *follower) finish(deadline time.Time) {
	_ = f.from.SetReadDeadline(deadline)
	f.start() // one that never ran has yet to take what stands in the pipe
	<-f.done
	_ = f.from.Close()
}
