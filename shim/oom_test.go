package shim

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/cgrouptree"
	"github.com/cri-pouch/cri-pouch/internal/filewatch"
	"github.com/cri-pouch/cri-pouch/internal/pidfd"
	"github.com/cri-pouch/cri-pouch/internal/richrun"
)

// The folders are plain ones: what is tried is the bookkeeping where systemd removes a scope before its counter is read.
// The kernel's own counters are tried with integration's OOM tests, on cgroup v2 by make test-vm.
func TestAKillIsFoundAfterTheScopeIsGone(t *testing.T) {
	parent := t.TempDir()
	count := func(dir string, kills int) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "memory.events"), fmt.Appendf(nil, "oom_kill %d\n", kills), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	count(parent, 7) // of containers long gone
	log := logrus.NewEntry(logrus.StandardLogger())
	files := filewatch.New(log)
	files.Close() // the watch loses the race: what it did not read is the case here
	w := newOOMWatch(files, log)
	follow := func(name string) *container {
		dir := filepath.Join(parent, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		count(dir, 0)
		c := &container{id: name, tree: cgrouptree.Tree{"": dir}, log: w.log}
		w.follow(c)
		return c
	}
	remove := func(c *container) {
		if err := os.RemoveAll(c.tree[""]); err != nil {
			t.Fatal(err)
		}
	}
	a, b, c, d := follow("a"), follow("b"), follow("c"), follow("d")

	if w.struck(a, true) {
		t.Error("nothing was counted, and its own counter is there to say so")
	}
	remove(a)
	if w.struck(a, true) {
		t.Error("the kills of before are not its own")
	}
	count(parent, 8)
	count(b.tree[""], 1)
	if !w.struck(b, true) {
		t.Error("its own counter says 1")
	}
	if w.struck(a, true) {
		t.Error("that kill was in another container")
	}
	count(parent, 9)
	remove(c)
	if w.struck(c, false) {
		t.Error("it ended by itself or by us")
	}
	if !w.struck(c, true) {
		t.Error("a kill that nobody else accounts for")
	}
	remove(d)
	if w.struck(d, true) {
		t.Error("that kill is accounted for")
	}
	late := follow("late")
	remove(late)
	if w.struck(late, true) {
		t.Error("a new container begins with the count of its time")
	}
}

// watched is an OOM watch over containers whose cgroups are plain folders: the notifications are the kernel's, what stands in
// the files is the test's.
type watched struct {
	*oomWatch
	t      *testing.T
	parent string
	events *broker
}

func newWatched(t *testing.T) *watched {
	t.Helper()
	log := logrus.NewEntry(logrus.StandardLogger())
	files := filewatch.New(log)
	t.Cleanup(files.Close)
	return &watched{newOOMWatch(files, log), t, t.TempDir(), newBroker()}
}

// container gives one that is not followed yet, and the path of its counters.
func (w *watched) container(name string) (*container, string) {
	w.t.Helper()
	dir := filepath.Join(w.parent, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		w.t.Fatal(err)
	}
	self, err := pidfd.Open(os.Getpid())
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = self.Close() })
	c := &container{id: name, tree: cgrouptree.Tree{"": dir}, log: w.log, s: &Server{events: w.events, oom: w.oomWatch}}
	c.init = &process{fd: self, done: make(chan struct{})}
	w.t.Cleanup(func() { w.forget(c) })
	return c, filepath.Join(dir, "memory.events")
}

// One that the OOM killer strikes in a loop is looked at by one goroutine, and each kill is counted once.
func TestAContainerThatIsStruckInALoopCostsOneGoroutine(t *testing.T) {
	w := newWatched(t)
	c, path := w.container("c")
	counters, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer counters.Close()
	events, cancel := w.events.subscribe()
	defer cancel()
	before, most := runtime.NumGoroutine(), 0
	w.follow(c)
	const kills, notifications = 20, 200
	for kill := range kills {
		if _, err := counters.WriteAt(fmt.Appendf(nil, "oom_kill %2d\n", kill+1), 0); err != nil {
			t.Fatal(err)
		}
		for range notifications { // for other reasons: the kernel has one file for all
			if _, err := counters.WriteAt([]byte("o"), 0); err != nil {
				t.Fatal(err)
			}
			runtime.Gosched()
		}
		most = max(most, runtime.NumGoroutine()-before)
	}
	if most > 5 {
		t.Errorf("%d goroutines look at one container", most)
	}
	accounted := func() uint64 {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.entries[c].kills
	}
	for until := time.Now().Add(time.Minute); accounted() < kills; time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("%d kills are accounted, want %d", accounted(), kills)
		}
	}
	if !w.struck(c, true) || w.count(c) != kills {
		t.Errorf("%d kills are counted, want %d", w.count(c), kills)
	}
	select {
	case e := <-events:
		if e.Id != "c" {
			t.Errorf("event of %q", e.Id)
		}
	case <-time.After(time.Minute):
		t.Error("nothing was told")
	}
	if n := len(events); n >= kills {
		t.Errorf("%d events more for %d kills", n, kills)
	}
}

// Whose counters take long to read holds up no other container.
func TestCountersThatTakeLongHoldUpNobody(t *testing.T) {
	w := newWatched(t)
	slow, path := w.container("slow")
	if err := unix.Mkfifo(path, 0o600); err != nil { // who reads it waits for somebody who writes
		t.Fatal(err)
	}
	fed := make(chan struct{})
	go func() {
		defer close(fed)
		if err := os.WriteFile(path, []byte("oom_kill 0\n"), 0); err != nil {
			t.Error(err)
		}
	}()
	w.follow(slow)
	<-fed
	news, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err == nil {
		_, err = news.WriteString("oom_kill 0\n")
	}
	if err != nil {
		t.Fatal(err)
	}
	_ = news.Close()
	defer func() { // nobody is left waiting
		f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
		if err != nil {
			t.Error(err)
			return
		}
		_ = os.Remove(path)
		_ = f.Close()
		w.forget(slow)
	}()
	writer := awaitReader(t, path)
	defer func() { _ = unix.Close(writer) }()
	done := make(chan struct{})
	go func() {
		defer close(done)
		other, path := w.container("other")
		if err := os.WriteFile(path, []byte("oom_kill 0\n"), 0o600); err != nil {
			t.Error(err)
		}
		w.follow(other)
		if w.count(other) != 0 || w.struck(other, true) {
			t.Error("a kill is counted")
		}
		w.elsewhere(w.parent, 1)
		w.forget(other)
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Error("another container waits for it")
	}
}

// Whether the application survived the OOM killer is looked into once at a time, however often that strikes.
func TestAnApplicationIsLookedForOnceAtATime(t *testing.T) {
	w := newWatched(t)
	c, _ := w.container("c")
	c.bundle = t.TempDir()
	folder := filepath.Join(c.bundle, richrun.Dir)
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, richrun.RecordFile), []byte("begin\nstart 1 42 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	procs := filepath.Join(c.tree[""], "cgroup.procs")
	if err := unix.Mkfifo(procs, 0o600); err != nil { // who reads it waits for somebody who writes
		t.Fatal(err)
	}
	c.rich = &rich{c: c}
	before := runtime.NumGoroutine()
	for range 100 {
		c.rich.struck()
	}
	writer := awaitReader(t, procs)
	if n := runtime.NumGoroutine() - before; n > 5 {
		t.Errorf("%d goroutines look for the application", n)
	}
	_ = os.Remove(procs)
	_ = unix.Close(writer)
	settled := func() bool {
		c.rich.mu.Lock()
		defer c.rich.mu.Unlock()
		return !c.rich.settling
	}
	for until := time.Now().Add(time.Minute); !settled(); time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("there is no end of looking")
		}
	}
}

// awaitReader waits until somebody reads a FIFO, which nothing tells but that a writer can open it at once.
func awaitReader(t *testing.T, path string) (fd int) {
	t.Helper()
	for until := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if fd, err := unix.Open(path, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err == nil {
			return fd
		}
		if time.Now().After(until) {
			t.Fatalf("nobody reads %s", path)
		}
	}
}
