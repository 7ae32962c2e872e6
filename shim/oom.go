package shim

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/filewatch"
	shimapi "github.com/cri-pouch/cri-pouch/shim/api/v1"
)

// oomWatch tells of containers that go on after the OOM killer struck in them. On cgroup v2 it watches their memory.events
// files; on v1 each has an eventfd. Both wait on the network poller.
type oomWatch struct {
	log   *logrus.Entry
	files *filewatch.Watcher

	mu      sync.Mutex
	entries map[*container]*oomEntry
}

type oomEntry struct {
	base    uint64       // kills before the container's program ran, as in a hook
	kills   uint64       // since then, as last told
	watch   filewatch.ID // v2
	eventfd *os.File     // v1
	// parent is the folder of the cgroup above, others is its count of kills less those of this container.
	parent string
	others uint64
}

func newOOMWatch(files *filewatch.Watcher, log *logrus.Entry) *oomWatch {
	return &oomWatch{log: log, files: files, entries: map[*container]*oomEntry{}}
}

// follow begins to watch a container. A failure is logged and costs only these events: at the end of the container the
// counter is read anyway.
func (w *oomWatch) follow(c *container) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := &oomEntry{watch: filewatch.None, base: c.tree.OOMKills(), parent: c.tree.Parent(), others: c.tree.ParentOOMKills()}
	var err error
	if p, ok := c.tree[""]; ok && len(c.tree) == 1 {
		e.watch, err = w.files.Each(filepath.Join(p, "memory.events"), func() { go w.look(c) })
	} else if p := c.tree["memory"]; p != "" {
		if e.eventfd, err = oomEventfd(p); err == nil {
			go w.readEventfd(c, e.eventfd)
		}
	}
	if err != nil {
		c.log.WithError(err).Warn("cannot watch for the OOM killer, its work will show at the container's end only")
	}
	w.entries[c] = e
}

// struck says whether the OOM killer ended a process of a container whose init has ended. killed says that the init died
// of a SIGKILL that is not ours. systemd takes an empty scope away with its counter at once: then counts what the watch
// had read, else what the cgroup above has counted and no container beside this one accounts for.
func (w *oomWatch) struck(c *container, killed bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := w.entries[c]
	if e == nil {
		return false // no program of it ran
	}
	w.account(e, e.since(c.tree.OOMKills()))
	if e.kills == 0 && killed && c.tree.Gone() && c.tree.ParentOOMKills() > e.others {
		w.account(e, c.tree.ParentOOMKills()-e.others)
	}
	return e.kills > 0
}

// count is how many processes of the container the OOM killer has ended, as far as can be known.
func (w *oomWatch) count(c *container) uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e := w.entries[c]; e != nil {
		return max(e.since(c.tree.OOMKills()), e.kills)
	}
	return 0
}

// since leaves out of the kernel's count what came before the program.
func (e *oomEntry) since(kills uint64) uint64 { return kills - min(e.base, kills) }

// elsewhere notes kills in a hook's cgroup below the same parent, which are no container's beside it.
func (w *oomWatch) elsewhere(parent string, kills uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.entries {
		if parent != "" && e.parent == parent {
			e.others += kills
		}
	}
}

// account notes a container's count, as kills of another for those beside it. The caller holds the lock.
func (w *oomWatch) account(e *oomEntry, kills uint64) (news bool) {
	if kills <= e.kills {
		return false
	}
	for _, other := range w.entries {
		if other != e && other.parent == e.parent {
			other.others += kills - e.kills
		}
	}
	e.kills = kills
	return true
}

func (w *oomWatch) forget(c *container) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := w.entries[c]
	if e == nil {
		return
	}
	delete(w.entries, c)
	w.files.Forget(e.watch)
	if e.eventfd != nil {
		_ = e.eventfd.Close()
	}
}

// oomEventfd asks cgroup v1 for notifications (Documentation/admin-guide/cgroup-v1/memory.rst, section 10).
func oomEventfd(dir string) (*os.File, error) {
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
	return os.NewFile(uintptr(fd), "oom eventfd"), nil
}

func (w *oomWatch) readEventfd(c *container, f *os.File) {
	b := make([]byte, 8)
	for {
		if _, err := f.Read(b); err != nil {
			return
		}
		if binary.NativeEndian.Uint64(b) > 0 {
			w.look(c)
		}
	}
}

// look compares the counter with what was told last. v1 notifies before the kill, so it looks again for a while.
func (w *oomWatch) look(c *container) {
	for _, wait := range []time.Duration{0, 5 * time.Millisecond, 50 * time.Millisecond, 500 * time.Millisecond} {
		select {
		case <-time.After(wait):
		case <-c.init.done:
			return
		}
		w.mu.Lock()
		e := w.entries[c]
		news := e != nil && w.account(e, e.since(c.tree.OOMKills()))
		w.mu.Unlock()
		if news && c.rich != nil {
			c.rich.struck()
		}
		if news && !c.init.fd.Ended() {
			c.s.events.publish(&shimapi.Event{Type: shimapi.Event_OOM, Id: c.id})
		}
		if news || e == nil {
			return
		}
	}
}
