package cri

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// otherSide opens the ends that a process would have.
func otherSide(t *testing.T, p *pipes) (stdin, stdout *os.File) {
	t.Helper()
	in, out, _ := p.paths()
	open := func(path string, flag int) *os.File {
		f, err := os.OpenFile(path, flag|unix.O_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	return open(in, os.O_RDONLY), open(out, os.O_WRONLY)
}

func testPipes(t *testing.T) *pipes {
	t.Helper()
	p, err := newPipes(filepath.Join(t.TempDir(), "exec"), func(dir string) { _ = os.RemoveAll(dir) }, true, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	return p
}

func TestPipesCarryBothWays(t *testing.T) {
	p := testPipes(t)
	stdin, stdout := otherSide(t, p)
	var out bytes.Buffer
	p.connect(strings.NewReader("typed"), &out, nil)
	if b, err := io.ReadAll(stdin); err != nil || string(b) != "typed" {
		t.Errorf("stdin has %q, %v", b, err)
	}
	_, _ = stdout.WriteString("written")
	p.finish() // although stdout is still open, as by a child that stays
	if out.String() != "written" {
		t.Errorf("the client has %q", &out)
	}
	p.close()
	if _, err := os.Stat(p.dir); !os.IsNotExist(err) {
		t.Errorf("the folder is left: %v", err)
	}
}

// What stands in the pipe at the end is copied, and somebody who writes on for ever does not hold the end up.
func TestPipesEndUnderAWriter(t *testing.T) {
	p := testPipes(t)
	_, stdout := otherSide(t, p)
	go func() {
		for {
			if _, err := stdout.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	}()
	p.connect(strings.NewReader(""), io.Discard, nil)
	done := make(chan struct{})
	go func() { defer close(done); p.finish() }()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Error("finish did not return")
	}
}

// A client whose stream breaks does not stop the process.
func TestPipesDropWhatCannotBeWritten(t *testing.T) {
	p := testPipes(t)
	_, stdout := otherSide(t, p)
	r, w := io.Pipe()
	r.Close()
	p.connect(strings.NewReader(""), w, nil)
	_ = stdout.SetWriteDeadline(time.Now().Add(time.Minute))
	if _, err := stdout.Write(make([]byte, 1<<20)); err != nil {
		t.Errorf("the process was stopped: %v", err)
	}
	p.finish()
}

// Stdin that nobody reads any more is read from the client and dropped: its other streams may stand behind it.
func TestPipesDropStdinThatNobodyReads(t *testing.T) {
	p := testPipes(t)
	stdin, _ := otherSide(t, p)
	client, typing := io.Pipe()
	p.connect(client, io.Discard, nil)
	stdin.Close()
	done := make(chan error, 1)
	go func() {
		_, err := typing.Write(make([]byte, 1<<20))
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Error("the client waits")
	}
	typing.Close()
	p.finish()
}
