package shim

import (
	"errors"
	"os"
	"sync"
	"time"

	"github.com/cri-pouch/cri-pouch/internal/crash"
	"github.com/cri-pouch/cri-pouch/internal/pollfile"
)

// outlet is one stream on its way to one client.
type outlet struct {
	m    *attachment
	file *pollfile.File
	wake chan struct{} // something to write, or the last has come
	room chan struct{} // something was written

	mu      sync.Mutex
	waiting [][]byte // chunks of attachChunk bytes, all full but the last
	held    int      // bytes of waiting, and of what is being written
	last    bool
	dropped bool // the client is detached
}

// offer adds a piece of output. A client that is too far behind is detached; with pace it has paceLimit to take something.
func (o *outlet) offer(p []byte, pace bool) {
	for len(p) > 0 {
		if p = p[o.fill(p):]; len(p) == 0 || o.grow() {
			continue
		}
		if !pace || !o.awaitRoom() {
			o.m.detach(errSlow)
			return
		}
	}
}

// fill puts what it can into the last chunk; what comes for a detached client is dropped.
func (o *outlet) fill(p []byte) (n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.dropped {
		return len(p)
	}
	if len(o.waiting) > 0 {
		last := &o.waiting[len(o.waiting)-1]
		n = min(len(p), cap(*last)-len(*last))
		*last = append(*last, p[:n]...)
		signal(o.wake)
	}
	return n
}

// grow adds a chunk; false: there is no room for it. It must not be called with mu held, for room may be made by detaching
// another client.
func (o *outlet) grow() bool {
	o.mu.Lock()
	full := o.held+attachChunk > attachBacklog
	o.mu.Unlock()
	of := o.m.audience.Load()
	if full || !of.backlog.reserve(of) {
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.dropped {
		of.backlog.release(of, attachChunk)
		return true
	}
	o.waiting = append(o.waiting, (*chunks.Get().(*[]byte))[:0])
	o.held += attachChunk
	return true
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
	if !crash.Run(nil, "copy to an attached client", o.copy) {
		o.m.detach(errDetached)
	}
}

func (o *outlet) copy() {
	for {
		chunk, last := o.next()
		if chunk == nil {
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
		// A pipe takes a part of it, and pollfile.File goes on with the rest.
		_, err := o.file.Write(chunk)
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				err = errSlow
			} else {
				err = errDetached
			}
			o.m.detach(err)
			return
		}
		o.written(chunk)
		signal(o.room)
	}
}

// next takes the first chunk that has something in it; nil: there is none, and with last none will come.
func (o *outlet) next() (chunk []byte, last bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.waiting) == 0 || len(o.waiting[0]) == 0 {
		return nil, o.last
	}
	chunk = o.waiting[0]
	o.waiting[0] = nil
	if o.waiting = o.waiting[1:]; len(o.waiting) == 0 {
		o.waiting = nil
	}
	return chunk, false
}

// written gives the memory of a chunk back.
func (o *outlet) written(chunk []byte) {
	chunk = chunk[:0]
	chunks.Put(&chunk)
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.dropped {
		o.held -= attachChunk
		of := o.m.audience.Load()
		of.backlog.release(of, attachChunk)
	}
}

// drop lets go of what waits.
func (o *outlet) drop() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if of := o.m.audience.Load(); of != nil {
		of.backlog.release(of, o.held)
	}
	o.waiting, o.held, o.dropped = nil, 0, true
}
