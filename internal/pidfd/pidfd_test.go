package pidfd

import (
	"errors"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

func TestProcess(t *testing.T) {
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
	if !p.Ended() {
		t.Error("a zombie has not ended")
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
