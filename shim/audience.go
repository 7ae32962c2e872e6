package shim

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/crash"
	"github.com/cri-pouch/cri-pouch/internal/exhaustion"
	"github.com/cri-pouch/cri-pouch/internal/pollfile"
)

const (
	// attachMax bounds the clients attached to one container.
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
	pace    bool
	backlog *backlog // of all containers
	pod     string   // for whom it counts there

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
	m.audience.Store(a)
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

// detachSlowest makes room: the client for whom most waits is detached. False: nothing waits for any.
func (a *audience) detachSlowest() bool {
	var slowest *attachment
	most := 0
	for _, m := range a.all() {
		if held := m.held(); held > most {
			slowest, most = m, held
		}
	}
	if slowest == nil {
		return false
	}
	slowest.detach(errSlow)
	return true
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
	audience atomic.Pointer[audience] // once it is one of it
	outlets  map[string]*outlet       // by stream
	running  sync.WaitGroup           // the outlets' copies

	once sync.Once
	gone chan struct{} // closed by detach
	err  error         // why, set before
}

func newAttachment() *attachment {
	return &attachment{outlets: map[string]*outlet{}, gone: make(chan struct{})}
}

// lead makes one stream's output go to a FIFO.
func (m *attachment) lead(name string, to *pollfile.File) {
	m.outlets[name] = &outlet{m: m, file: to, wake: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

// held is how much memory there is for what waits for the client.
func (m *attachment) held() (sum int) {
	for _, o := range m.outlets {
		o.mu.Lock()
		sum += o.held
		o.mu.Unlock()
	}
	return sum
}

// start begins to copy.
func (m *attachment) start() {
	for _, o := range m.outlets {
		m.running.Go(crash.Guard(nil, "copy to an attached client", o.run))
	}
}

// detach ends the attachment at once; what waits for the client is dropped. The first reason counts.
func (m *attachment) detach(err error) {
	m.once.Do(func() {
		m.err = err
		close(m.gone)
		for _, o := range m.outlets {
			_ = o.file.Close()
			o.drop()
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
	crash.Go(nil, "let an attached client go", func() {
		m.running.Wait()
		m.detach(nil)
	})
}

// hungUp blocks until nobody has a FIFO, of which f is a writing end, open for reading, or f is closed. It reads and writes
// nothing.
func hungUp(f *pollfile.File) {
	raw, err := f.SyscallConn()
	if err != nil {
		return
	}
	for pause := (exhaustion.Pause{}); ; time.Sleep(pause.Next()) {
		var unknown error
		// The poller tells of an error as of something to read, on a writing end too.
		err := raw.Read(func(fd uintptr) bool {
			fds := []unix.PollFd{{Fd: int32(fd)}}
			for {
				var n int
				if n, unknown = unix.Poll(fds, 0); unknown != unix.EINTR {
					return unknown != nil || n > 0
				}
			}
		})
		if err != nil || unknown == nil {
			return
		}
	}
}
