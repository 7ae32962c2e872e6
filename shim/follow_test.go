package shim

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/integration/faults"
)

func TestFollowersLoseNothing(t *testing.T) { followOutput(t) }

func TestFollowersLoseNothingWithoutAPlaceInThePoller(t *testing.T) {
	if faults.Again(t, "epoll_ctl:error=ENOSPC:when=2+") {
		followOutput(t)
	}
}

func TestFollowersLoseNothingWhileMemoryIsShort(t *testing.T) {
	if faults.Again(t, "read:error=ENOMEM:when=3..6") {
		followOutput(t)
	}
}

// followOutput has a follower read more than a pipe holds, and then what stands in the pipe when somebody holds it open for
// longer than anybody waits.
func followOutput(t *testing.T) {
	ours, child, err := outputFIFO(t.TempDir() + "/stdout")
	if err != nil {
		t.Fatal(err)
	}
	defer child.Close()
	var got bytes.Buffer
	f := newFollower(ours, &got, func() {})
	f.start()
	text := strings.Repeat("what the program says\n", 10_000)
	if _, err := child.WriteString(text); err != nil {
		t.Fatal(err)
	}
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		f.finish(time.Now().Add(drainLimit))
	}()
	select {
	case <-finished:
	case <-time.After(time.Minute):
		t.Fatal("a FIFO that somebody holds open is waited for")
	}
	if got.String() != text {
		t.Errorf("%d of %d bytes came", got.Len(), len(text))
	}
}

// What hangs up is told of, and a want of memory is no hang-up.
func TestAHangUpIsNotBelievedForWantOfMemory(t *testing.T) {
	if !faults.Again(t, "ppoll:error=ENOMEM:when=1..2", "epoll_ctl:error=ENOSPC:when=2+") {
		return
	}
	path := t.TempDir() + "/fifo"
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := openFIFO(path, unix.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	w, err := openFIFO(path, unix.O_WRONLY)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	told := make(chan struct{})
	go func() { defer close(told); hungUp(w) }()
	select {
	case <-told:
		t.Fatal("told too early")
	case <-time.After(100 * time.Millisecond):
	}
	r.Close()
	<-told
}
