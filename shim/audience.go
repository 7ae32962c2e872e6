package shim

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	// attachBacklog is how many bytes of a stream may wait for an attached client.
	attachBacklog = 1 << 20
	// attachMax bounds the clients attached to one container, and so the memory for what waits for them.
	attachMax = 32
	// paceLimit is how long a terminal waits for a client that takes nothing.
	paceLimit = time.Second
	// farewellLimit is how long clients have to take the last output when the container has ended.
	farewellLimit = 10 * time.Second
)

// The reasons of an attachment's end.
var (
	errDetached = fmt.Errorf("the client has detached: %w", errdefs.ErrAborted)
	errSlow     = fmt.Errorf("the client reads too slowly, it was detached so that the container does not wait: %w", errdefs.ErrResourceExhausted)
)

// audience are the clients attached to one container. They get a copy of what the log gets, after it.
type audience struct {
	// pace lets writers wait a moment for a client that is behind: a terminal's program waits for its reader, and whole screens
	// of it come at once. Without it nobody ever waits.
	pace bool

	listening atomic.Int32 // how many there are, so that nobody costs nothing
	mu        sync.Mutex
	members   map[*attachment]struct{}
	ended     bool
}

// tee gives a writer for one stream of the container: to the log, and to who is attached.
func (a *audience) tee(name string, log io.Writer) io.Writer { return &teeWriter{a, name, log} }

type teeWriter struct {
	audience *audience
	name     string
	log      io.Writer
}

// Write never fails.
func (t *teeWriter) Write(p []byte) (int, error) {
	_, _ = t.log.Write(p)
	if t.audience.listening.Load() > 0 {
		for _, m := range t.audience.all() {
			if o := m.outlets[t.name]; o != nil {
				o.offer(p, t.audience.pace)
			}
		}
	}
	return len(p), nil
}

func (a *audience) all() []*attachment {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := make([]*attachment, 0, len(a.members))
	for m := range a.members {
		list = append(list, m)
	}
	return list
}

// add takes a client in.
func (a *audience) add(m *attachment) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.ended:
		return fmt.Errorf("the container has ended: %w", errdefs.ErrFailedPrecondition)
	case len(a.members) >= attachMax:
		return fmt.Errorf("%d clients are attached already: %w", len(a.members), errdefs.ErrResourceExhausted)
	}
	if a.members == nil {
		a.members = map[*attachment]struct{}{}
	}
	a.members[m] = struct{}{}
	a.listening.Add(1)
	return nil
}

func (a *audience) drop(m *attachment) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.members[m]; ok {
		delete(a.members, m)
		a.listening.Add(-1)
	}
}

// end tells all clients that no more output comes. It does not wait for them.
func (a *audience) end() {
	a.mu.Lock()
	a.ended = true
	a.mu.Unlock()
	for _, m := range a.all() {
		m.finish()
	}
}

// attachment is one attached client.
type attachment struct {
	outlets map[string]*outlet // by stream
	running sync.WaitGroup     // the outlets' copies

	once sync.Once
	gone chan struct{} // closed by detach
	err  error         // why, set before
}

func newAttachment() *attachment {
	return &attachment{outlets: map[string]*outlet{}, gone: make(chan struct{})}
}

// lead makes one stream's output go to a FIFO.
func (m *attachment) lead(name string, to *os.File) {
	m.outlets[name] = &outlet{m: m, file: to, wake: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

// start begins to copy.
func (m *attachment) start() {
	for _, o := range m.outlets {
		m.running.Go(o.run)
	}
}

// detach ends the attachment at once; what waits for the client is dropped. The first reason counts.
func (m *attachment) detach(err error) {
	m.once.Do(func() {
		m.err = err
		close(m.gone)
		for _, o := range m.outlets {
			_ = o.file.Close()
		}
	})
}

// finish lets the client take what waits for it, and no more.
func (m *attachment) finish() {
	for _, o := range m.outlets {
		_ = o.file.SetWriteDeadline(time.Now().Add(farewellLimit))
		o.mu.Lock()
		o.last = true
		o.mu.Unlock()
		signal(o.wake)
	}
	go func() {
		m.running.Wait()
		m.detach(nil)
	}()
}

// outlet is one stream on its way to one client.
type outlet struct {
	m    *attachment
	file *os.File
	wake chan struct{} // something to write, or the last has come
	room chan struct{} // something was written

	mu      sync.Mutex
	waiting []byte
	size    int // of waiting and of what is being written
	last    bool
}

// offer adds a piece of output. A client that is too far behind is detached; with pace it has paceLimit to take something.
func (o *outlet) offer(p []byte, pace bool) {
	for {
		o.mu.Lock()
		if o.size+len(p) <= attachBacklog {
			o.waiting = append(o.waiting, p...)
			o.size += len(p)
			o.mu.Unlock()
			signal(o.wake)
			return
		}
		o.mu.Unlock()
		if !pace || !o.awaitRoom() {
			o.m.detach(errSlow)
			return
		}
	}
}

// awaitRoom says whether something was written within paceLimit.
func (o *outlet) awaitRoom() bool {
	timer := time.NewTimer(paceLimit)
	defer timer.Stop()
	select {
	case <-o.room:
		return true
	case <-o.m.gone:
		return false
	case <-timer.C:
		return false
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// run writes what comes until the last of it, or the end of the attachment.
func (o *outlet) run() {
	for {
		o.mu.Lock()
		piece, last := o.waiting, o.last
		o.waiting = nil
		o.mu.Unlock()
		if len(piece) == 0 {
			if last {
				return
			}
			select {
			case <-o.wake:
				continue
			case <-o.m.gone:
				return
			}
		}
		for len(piece) > 0 {
			// A pipe takes a part of it, and that is progress already.
			n, err := o.file.Write(piece[:min(len(piece), 16<<10)])
			if err != nil {
				if errors.Is(err, os.ErrDeadlineExceeded) {
					err = errSlow
				} else {
					err = errDetached
				}
				o.m.detach(err)
				return
			}
			piece = piece[n:]
			o.mu.Lock()
			o.size -= n
			o.mu.Unlock()
			signal(o.room)
		}
	}
}

// hungUp blocks until nobody has a FIFO, of which f is a writing end, open for reading, or f is closed. It reads and writes
// nothing.
func hungUp(f *os.File) {
	raw, err := f.SyscallConn()
	if err != nil {
		return
	}
	// The poller tells of an error as of something to read, on a writing end too.
	_ = raw.Read(func(fd uintptr) bool {
		fds := []unix.PollFd{{Fd: int32(fd)}}
		for {
			n, err := unix.Poll(fds, 0)
			if err == unix.EINTR {
				continue
			}
			return err != nil || n > 0
		}
	})
}
