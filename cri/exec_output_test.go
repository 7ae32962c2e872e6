package cri

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/sirupsen/logrus"
)

// fill takes until nothing more may be kept.
func fill(b *budget) (kept int) {
	for {
		n := b.take(32 << 10)
		if n == 0 {
			return kept
		}
		kept += n
	}
}

func quietOutputs() *execOutputs {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return newExecOutputs(logrus.NewEntry(log))
}

// The execs of a container share what is kept of their output, and all containers of the node do. Each has a little of its own.
func TestTheOutputOfExecsIsBounded(t *testing.T) {
	o := quietOutputs()
	one, two, small := o.budget("a", execOutputMax), o.budget("a", execOutputMax), o.budget("b", 100)
	if n := fill(one); n != execOutputMax {
		t.Errorf("the only exec keeps %d bytes", n)
	}
	if n := fill(two); n < execOutputOwn || n > 2*execOutputOwn {
		t.Errorf("the second exec of the container keeps %d bytes", n)
	}
	if n := fill(small); n != 100 {
		t.Errorf("one that may keep 100 bytes keeps %d", n)
	}
	all := []*budget{one, two, small}
	sum := 0
	for _, container := range []string{"c", "d", "e", "f", "g", "h", "i", "j", "k"} {
		b := o.budget(container, execOutputMax)
		all = append(all, b)
		n := fill(b)
		if sum += n; n < execOutputOwn {
			t.Errorf("an exec keeps %d bytes where others have all", n)
		}
	}
	if sum += execOutputMax; sum > execOutputAll+len(all)*execOutputOwn {
		t.Errorf("%d bytes are kept", sum)
	}
	for _, b := range all {
		b.release()
	}
	if o.all != 0 || len(o.of) != 0 {
		t.Errorf("%d bytes are kept for nobody, of %d containers", o.all, len(o.of))
	}
	again := o.budget("a", execOutputMax)
	defer again.release()
	if n := fill(again); n != execOutputMax {
		t.Errorf("the next exec keeps %d bytes", n)
	}
}

// What is over the bound is read all the same: the command does not wait.
func TestOutputOverTheBoundIsReadAndDropped(t *testing.T) {
	o := quietOutputs()
	first := o.budget("a", execOutputMax)
	defer first.release()
	fill(first)
	fill(o.budget("a", execOutputMax))
	f, err := newFIFO(filepath.Join(t.TempDir(), "stdout"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	w, err := os.OpenFile(f.path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	b := o.budget("a", execOutputMax)
	defer b.release()
	f.collect(b)
	if _, err := w.Write(make([]byte, 4<<20)); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	if kept := f.finish(); len(kept) != execOutputOwn {
		t.Errorf("%d bytes are kept, want %d", len(kept), execOutputOwn)
	}
}
