package shim

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/opencontainers/runc/libcontainer"

	"github.com/cri-pouch/cri-pouch/internal/crilog"
	"github.com/cri-pouch/cri-pouch/internal/hookrun"
)

const (
	// crowd is how many containers a busy node has.
	crowd = 500
	// shareMax is how many bytes of the shim's heap a container's streams may keep: the beginnings of two lines of the longest
	// kind, and what it takes to follow two FIFOs.
	shareMax = 2*(crilog.MaxLine+crilog.MaxLine/2) + 8<<10
)

// talker is a container as far as its output goes.
type talker struct {
	io    *fifos
	ends  *childFiles
	path  string
	files []*os.File // the writing ends of stdout and stderr
	log   *crilog.File
}

func newTalker(t *testing.T) *talker {
	t.Helper()
	dir := t.TempDir()
	k := &talker{path: filepath.Join(dir, "log")}
	var err error
	if k.log, err = crilog.New(k.path, func(err error) { t.Error(err) }); err == nil {
		err = k.log.Reopen()
	}
	if err != nil {
		t.Fatal(err)
	}
	var lp libcontainer.Process
	if k.io, k.ends, err = newFIFOs(dir, false, k.log, &audience{}, &lp); err != nil {
		t.Fatal(err)
	}
	k.files = []*os.File{lp.Stdout.(*os.File), lp.Stderr.(*os.File)}
	k.io.start()
	return k
}

// say writes to both streams and waits until the log has so many bytes of it.
func (k *talker) say(t *testing.T, text []byte, logged int) {
	t.Helper()
	for _, f := range k.files {
		if _, err := f.Write(text); err != nil {
			t.Fatal(err)
		}
	}
	awaitSize(t, k.path, int64(logged))
}

// awaitSize waits until a file has so many bytes, and takes them away.
func awaitSize(t *testing.T, path string, size int64) {
	t.Helper()
	for until := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if st.Size() == size {
			break
		}
		if time.Now().After(until) {
			t.Fatalf("%s has %d bytes, not %d", path, st.Size(), size)
		}
	}
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
}

// heap is what is in use when everything that nobody needs has gone; what pools keep goes with the second collection.
func heap() int {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// A line's record is up to 41 times as long as the line: what containers wrote once must not stay in the shim, which the OOM
// killer spares.
func TestTheOutputOfManyContainersDoesNotStayInTheShim(t *testing.T) {
	before := heap()
	newlines, unfinished := bytes.Repeat([]byte("\n"), 64<<10), bytes.Repeat([]byte("x"), crilog.MaxLine)
	var talkers []*talker
	for range crowd {
		k := newTalker(t)
		talkers = append(talkers, k)
		head := k.log.Stream("stdout").Head()
		k.say(t, newlines, 2*len(newlines)*(head+1))
		k.say(t, append([]byte("\n"), unfinished...), 2*(head+1))
	}
	if each := (heap() - before) / crowd; each > shareMax {
		t.Errorf("%d containers that wrote newlines keep %d bytes of the heap each, want %d at most", crowd, each, shareMax)
	}
	for _, k := range talkers {
		k.ends.close()
		k.io.drain()
		if err := k.log.Close(); err != nil {
			t.Error(err)
		}
	}
}

// The lines of a hook get its name before them.
func TestTheOutputOfAHookDoesNotStayInTheShim(t *testing.T) {
	before := heap()
	var outputs []*hookOutput
	newlines := bytes.Repeat([]byte("\n"), 64<<10)
	for i := range crowd {
		path := filepath.Join(t.TempDir(), "log")
		log, err := crilog.New(path, func(err error) { t.Error(err) })
		if err == nil {
			err = log.Reopen()
		}
		if err != nil {
			t.Fatal(err)
		}
		defer log.Close()
		o, child, err := newHookOutput(log, hookrun.Hook{Name: fmt.Sprintf("a-hook-with-a-long-name-%d", i), Log: true})
		if err != nil {
			t.Fatal(err)
		}
		defer o.finish()
		defer child.Close()
		outputs = append(outputs, o)
		if _, err := o.Write(newlines[:8<<10]); err != nil { // as its follower does
			t.Fatal(err)
		}
		if err := os.Truncate(path, 0); err != nil {
			t.Fatal(err)
		}
	}
	const most = 3*hookrun.OutputMax + 8<<10
	if each := (heap() - before) / crowd; each > most {
		t.Errorf("%d hooks that wrote newlines keep %d bytes of the heap each, want %d at most", crowd, each, most)
	}
	runtime.KeepAlive(outputs)
}
