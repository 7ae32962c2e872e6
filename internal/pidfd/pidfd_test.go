package pidfd

import (
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/integration/faults"
)

func TestProcess(t *testing.T) { followProcess(t) }

// Neither a poller without room nor a poll(2) without memory is an end of the process.
func TestProcessWhileTheKernelIsShortOfMemory(t *testing.T) {
	if faults.Again(t, "epoll_ctl:error=ENOSPC:when=2+") {
		followProcess(t)
	}
}

func TestAnEndIsNotBelievedForWantOfMemory(t *testing.T) {
	if faults.Again(t, "ppoll:error=ENOMEM:when=1..5") {
		followProcess(t)
	}
}

func followProcess(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	p, err := Open(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if p.Ended() {
		t.Error("it has ended before it was killed")
	}
	waited := make(chan error)
	go func() { waited <- p.Wait() }()
	if err := p.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := <-waited; err != nil {
		t.Error(err)
	}
	for until := time.Now().Add(time.Minute); !p.Ended(); { // it may be unknown for a while
		if time.Now().After(until) {
			t.Fatal("a zombie has not ended")
		}
	}
	if err := cmd.Wait(); err == nil {
		t.Error("Wait reaped it")
	}
	if err := p.Signal(unix.SIGKILL); !errors.Is(err, unix.ESRCH) {
		t.Errorf("signal to nobody: %v", err)
	}
}

func TestCloseEndsWait(t *testing.T) {
	p, err := Open(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	waited := make(chan error)
	go func() { waited <- p.Wait() }()
	p.Close()
	if err := <-waited; err == nil {
		t.Error("Wait found an end")
	}
}
