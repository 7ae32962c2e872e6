package filewatch

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/cri-pouch/cri-pouch/internal/crash"
	"github.com/cri-pouch/cri-pouch/internal/exhaustion"
)

const (
	lookPause = time.Second
	// stampMax is how much of a file of the kernel's is compared: such files are some lines long.
	stampMax = 4 << 10
)

// looked is a file that is looked at because it cannot be watched.
type looked struct {
	watch
	path  string
	stamp string // what it was like the last time
}

// addLooked begins to look at a file. w.mu is held.
func (w *Watcher) addLooked(path string, entry watch) (ID, error) {
	stamp, err := entry.stampOf(path)
	if err != nil && !exhaustion.Is(err) {
		return None, fmt.Errorf("watch %s: %w", path, err)
	}
	for id, other := range w.looked { // a file has one watch
		if other.path == path {
			delete(w.looked, id)
		}
	}
	id := w.next
	w.next--
	w.looked[id] = &looked{watch: entry, path: path, stamp: stamp}
	if !w.looking {
		w.looking = true
		crash.Go(w.log, "look at files", w.look)
	}
	return id, nil
}

// look looks at the files once a second as long as there are any.
func (w *Watcher) look() {
	ticker := time.NewTicker(lookPause)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-w.closed:
			return
		}
		changed, more := w.lookOnce()
		for _, fn := range changed {
			crash.Run(w.log, "tell of a write to a file", fn)
		}
		if !more {
			return
		}
	}
}

// lookOnce gives whom to tell, and whether there is anything to look at again.
func (w *Watcher) lookOnce() (changed []func(), more bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, l := range w.looked {
		stamp, err := l.stampOf(l.path)
		gone := errors.Is(err, fs.ErrNotExist)
		if stamp == l.stamp && !gone || exhaustion.Is(err) {
			continue
		}
		l.stamp = stamp
		changed = append(changed, l.changed)
		if l.once || gone {
			delete(w.looked, id)
		}
	}
	w.looking = len(w.looked) > 0
	return changed, w.looking
}

// stampOf tells two states of a file apart. A file that somebody in a container may write to is not opened. The kernel's own
// have neither a size nor a time: their content is short, and nobody else's.
func (e watch) stampOf(path string) (string, error) {
	if e.once {
		st, err := os.Lstat(path)
		if err != nil {
			return "", err
		}
		return fmt.Sprint(st.Size(), st.ModTime().UnixNano(), st.Mode()), nil
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, stampMax))
	return string(b), err
}
