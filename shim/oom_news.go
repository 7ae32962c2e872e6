package shim

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/exhaustion"
	"github.com/cri-pouch/cri-pouch/internal/filewatch"
	"github.com/cri-pouch/cri-pouch/internal/pollfile"
)

// oomNews tells of what happens to one container's memory.
type oomNews interface {
	// await returns after news, or late, after d where that is not 0. False: close was called.
	await(d time.Duration) (late, ok bool)
	close()
}

// listen gives what the kernel tells of a container's memory; nil where there is no cgroup for it.
func (w *oomWatch) listen(c *container) (oomNews, error) {
	if p, ok := c.tree[""]; ok && len(c.tree) == 1 {
		return newFileNews(w.files, w.files.Each, filepath.Join(p, "memory.events"))
	}
	p := c.tree["memory"]
	if p == "" {
		return nil, nil
	}
	news, err := newEventfd(p)
	if exhaustion.Is(err) { // the count of kills stands there, too
		return newFileNews(w.files, w.files.Look, filepath.Join(p, "memory.oom_control"))
	}
	return news, err
}

// fileNews are writes of the kernel to a file of cgroup v2. Those that come before somebody looks are one.
type fileNews struct {
	files *filewatch.Watcher
	watch filewatch.ID
	wake  chan struct{}
	quit  chan struct{}
	once  sync.Once
}

// newFileNews has watch, a method of files, tell of changes of a file.
func newFileNews(files *filewatch.Watcher, watch func(path string, changed func()) (filewatch.ID, error), path string) (oomNews, error) {
	n := &fileNews{files: files, wake: make(chan struct{}, 1), quit: make(chan struct{})}
	var err error
	if n.watch, err = watch(path, func() { signal(n.wake) }); err != nil {
		return nil, err
	}
	return n, nil
}

func (n *fileNews) await(d time.Duration) (late, ok bool) {
	var timer <-chan time.Time
	if d > 0 {
		timer = time.After(d)
	}
	select {
	case <-n.quit:
		return false, false
	case <-n.wake:
		return false, true
	case <-timer:
		return true, true
	}
}

func (n *fileNews) close() {
	n.once.Do(func() {
		n.files.Forget(n.watch)
		close(n.quit)
	})
}

// eventfdNews are notifications of cgroup v1 (Documentation/admin-guide/cgroup-v1/memory.rst, section 10), which the kernel
// adds up. It waits on the network poller.
type eventfdNews struct{ file *pollfile.File }

func newEventfd(dir string) (oomNews, error) {
	control, err := os.Open(filepath.Join(dir, "memory.oom_control"))
	if err != nil {
		return nil, err
	}
	defer control.Close()
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make eventfd: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.event_control"), fmt.Appendf(nil, "%d %d", fd, control.Fd()), 0); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &eventfdNews{pollfile.New(fd, "oom eventfd")}, nil
}

func (n *eventfdNews) await(d time.Duration) (late, ok bool) {
	var until time.Time
	if d > 0 {
		until = time.Now().Add(d)
	}
	_ = n.file.SetReadDeadline(until)
	_, err := n.file.Read(make([]byte, 8))
	late = errors.Is(err, os.ErrDeadlineExceeded)
	return late, late || err == nil
}

func (n *eventfdNews) close() { _ = n.file.Close() }
