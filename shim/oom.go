package shim

import (
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/cri-pouch/cri-pouch/internal/crash"
	"github.com/cri-pouch/cri-pouch/internal/filewatch"
	shimapi "github.com/cri-pouch/cri-pouch/shim/api/v1"
)

// oomWatch tells of containers that go on after the OOM killer struck in them. On cgroup v2 it watches their memory.events
// files; on v1 each has an eventfd. Each container has one goroutine that looks, however often the kernel tells of it. Files
// are read without the lock: it is that of all containers.
type oomWatch struct {
	log   *logrus.Entry
	files *filewatch.Watcher

	mu       sync.Mutex
	entries  map[*container]*oomEntry
	accounts uint64 // how often anything was accounted
}

type oomEntry struct {
	base  uint64 // kills before the container's program ran, as in a hook
	kills uint64 // since then, as last told
	news  oomNews
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
	news, err := w.listen(c)
	if err != nil {
		c.log.WithError(err).Warn("cannot watch for the OOM killer, its work will show at the container's end only")
	}
	e := &oomEntry{news: news, parent: c.tree.Parent()}
	w.lockAfter(func() { e.base, e.others = c.tree.OOMKills(), c.tree.ParentOOMKills() })
	defer w.mu.Unlock()
	w.entries[c] = e
	if news != nil {
		crash.Go(c.log, "watch for the OOM killer", crash.Keep(c.life, c.log, "watch for the OOM killer", func() { w.run(c, news) }))
	}
}

// lockAfter takes the lock after files were read with which nothing was accounted meanwhile: a count that is compared with
// what others account for must not be older than that. Where others account without end, it is.
func (w *oomWatch) lockAfter(read func()) {
	for range 8 {
		w.mu.Lock()
		before := w.accounts
		w.mu.Unlock()
		read()
		w.mu.Lock()
		if w.accounts == before {
			return
		}
		w.mu.Unlock()
	}
	read()
	w.mu.Lock()
}

// struck says whether the OOM killer ended a process of a container whose init has ended. killed says that the init died
// of a SIGKILL that is not ours. systemd takes an empty scope away with its counter at once: then counts what the watch
// had read, else what the cgroup above has counted and no container beside this one accounts for.
func (w *oomWatch) struck(c *container, killed bool) bool {
	var kills, above uint64
	var gone bool
	w.lockAfter(func() {
		kills, gone = c.tree.OOMKills(), killed && c.tree.Gone()
		if gone {
			above = c.tree.ParentOOMKills()
		}
	})
	defer w.mu.Unlock()
	e := w.entries[c]
	if e == nil {
		return false // no program of it ran
	}
	w.account(e, e.since(kills))
	if e.kills == 0 && gone && above > e.others {
		w.account(e, above-e.others)
	}
	return e.kills > 0
}

// count is how many processes of the container the OOM killer has ended, as far as can be known.
func (w *oomWatch) count(c *container) uint64 {
	kills := c.tree.OOMKills()
	w.mu.Lock()
	defer w.mu.Unlock()
	if e := w.entries[c]; e != nil {
		return max(e.since(kills), e.kills)
	}
	return 0
}

// since leaves out of the kernel's count what came before the program.
func (e *oomEntry) since(kills uint64) uint64 { return kills - min(e.base, kills) }

// elsewhere notes kills in a hook's cgroup below the same parent, which are no container's beside it.
func (w *oomWatch) elsewhere(parent string, kills uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.accounts++
	for _, e := range w.entries {
		if parent != "" && e.parent == parent {
			e.others += kills
		}
	}
}

// account notes a container's count, as kills of another for those beside it. It must be called with mu held.
func (w *oomWatch) account(e *oomEntry, kills uint64) (news bool) {
	if kills <= e.kills {
		return false
	}
	w.accounts++
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
	e := w.entries[c]
	delete(w.entries, c)
	w.mu.Unlock()
	if e != nil && e.news != nil {
		e.news.close()
	}
}

// oomLooks is when a container is looked at again after news of which nothing was found: v1 tells of a kill before it.
var oomLooks = []time.Duration{5 * time.Millisecond, 50 * time.Millisecond, 500 * time.Millisecond}

// run looks at a container whenever there are news of it, until it is forgotten. A container in which the OOM killer strikes
// again and again costs the shim one goroutine, and no more than a small share of a CPU.
func (w *oomWatch) run(c *container, news oomNews) {
	again := len(oomLooks)
	for {
		var wait time.Duration
		if again < len(oomLooks) {
			wait = oomLooks[again]
		}
		late, ok := news.await(wait)
		if !ok {
			return
		}
		if again++; !late {
			again = 0
		}
		begun := time.Now()
		if w.look(c) {
			again = len(oomLooks)
		}
		select {
		case <-time.After(min(readRest*time.Since(begun), readRestMax)):
		case <-c.init.done:
			return
		}
	}
}

// look compares the counter with what was told last, and tells what is new.
func (w *oomWatch) look(c *container) (news bool) {
	kills := c.tree.OOMKills()
	w.mu.Lock()
	e := w.entries[c]
	news = e != nil && w.account(e, e.since(kills))
	w.mu.Unlock()
	if news && c.rich != nil {
		c.rich.struck()
	}
	if news && !c.init.fd.Ended() {
		c.s.events.publish(&shimapi.Event{Type: shimapi.Event_OOM, Id: c.id})
	}
	return news
}
