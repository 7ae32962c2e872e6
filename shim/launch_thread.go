package shim

import (
	"runtime"
	"sync"

	"github.com/cri-pouch/cri-pouch/internal/crash"
)

// launchThreads are the threads that launches run on, one at a time each. They never end: a thread's end is its children's loss of
// their parent, and the kernel then sends those which have asked for it a signal (PR_SET_PDEATHSIG of prctl(2)). Threads that
// serve other routines end when libcontainer has used one for a mount namespace.
type launchThreads struct {
	mu   sync.Mutex
	idle []chan func() bool
}

// run calls fn on a thread that nothing else runs on until fn returns, and reports whether other launches can have it then.
func (t *launchThreads) run(fn func() (fit bool)) {
	t.mu.Lock()
	var next chan func() bool
	if n := len(t.idle); n > 0 {
		next, t.idle = t.idle[n-1], t.idle[:n-1]
	}
	t.mu.Unlock()
	if next == nil {
		next = make(chan func() bool, 1)
		crash.Go(nil, "serve launches", func() { t.serve(next) })
	}
	next <- fn
}

func (t *launchThreads) serve(work chan func() bool) {
	runtime.LockOSThread() // for good
	for fn := range work {
		if !fn() {
			return // and the thread ends
		}
		t.mu.Lock()
		t.idle = append(t.idle, work)
		t.mu.Unlock()
	}
}
