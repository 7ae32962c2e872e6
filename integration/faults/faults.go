// Package faults injects errors of system calls by strace(1): into a test that is run again in a process of its own, or
// into a process that runs already.
package faults

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// inside says that the process was started by Again.
const inside = "CRI_POUCH_TEST_FAULTS"

// attachLimit bounds the time until strace has attached itself to all threads of a process.
const attachLimit = time.Minute

// detachLimit is how long strace may take to let go before it is killed.
const detachLimit = 3 * time.Second

// Again runs the calling test again under the faults and gives false; its failures are the test's. It gives true in that
// second run. A fault reads as strace's -e inject=, "epoll_ctl:error=ENOSPC:when=2+": Go's runtime cannot do without its
// first call of epoll_ctl.
func Again(t testing.TB, fault ...string) bool {
	t.Helper()
	if os.Getenv(inside) != "" {
		passFirstCalls(t)
		return true
	}
	program := need(t)
	// Other calls do not stop the process.
	args := append(arguments(fault), "-f", "--seccomp-bpf", "--", executable(t), "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=3m")
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), inside+"=1")
	out, err := cmd.CombinedOutput()
	refused(t, string(out))
	if err != nil {
		t.Errorf("under %s: %v\n%s", strings.Join(fault, ", "), err, out)
	} else if !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("under %s the test did not run:\n%s", strings.Join(fault, ", "), out)
	}
	return false
}

// threadsMade is how many threads make their first call before a test begins: more than its routines need.
const threadsMade = 64

// passFirstCalls has the poller begin, and then threads make their first call of epoll_ctl. strace counts the calls of each
// thread by itself, and which thread a routine runs on is chance: from here on no call is a thread's first.
func passFirstCalls(t testing.TB) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	var made, passed sync.WaitGroup
	for range threadsMade {
		made.Add(1)
		passed.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			_ = unix.EpollCtl(-1, unix.EPOLL_CTL_ADD, -1, nil)
			made.Done()
			made.Wait() // so that each has a thread of its own
		})
	}
	passed.Wait()
}

// Attach injects the faults into the threads that a process has, until detach is called. What it starts is left alone: it
// shall not be able to blame that for its own failures.
func Attach(t testing.TB, pid int, fault ...string) (detach func()) {
	t.Helper()
	program := need(t)
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	if err != nil || len(threads) == 0 {
		t.Fatalf("process %d is not there: %v", pid, err)
	}
	args := arguments(fault)
	for _, thread := range threads {
		args = append(args, "-p", filepath.Base(thread))
	}
	cmd := exec.Command(program, args...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := make(chan string, 1)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		said <- readAttached(stderr, len(threads))
		_, _ = io.Copy(io.Discard, stderr)
		_ = cmd.Wait()
	}()
	detach = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(unix.SIGINT)
		select {
		case <-gone:
		case <-time.After(detachLimit): // a thread waits in the kernel where nobody can reach it
			_ = cmd.Process.Kill()
			<-gone
		}
	})
	t.Cleanup(detach)
	select {
	case problem := <-said:
		if problem != "" {
			refused(t, problem)
			t.Fatalf("attach to process %d: %s", pid, problem)
		}
	case <-time.After(attachLimit):
		t.Fatalf("strace does not attach to process %d", pid)
	}
	return detach
}

// readAttached reads what strace says until it has seen to all threads, of which some may have ended. It gives a text where
// not one is left.
func readAttached(stderr io.Reader, threads int) (problem string) {
	var text strings.Builder
	attached, seen := 0, 0
	for s := bufio.NewScanner(stderr); s.Scan(); {
		fmt.Fprintln(&text, s.Text())
		switch {
		case strings.HasSuffix(s.Text(), " attached"):
			attached++
			seen++
		case strings.Contains(s.Text(), "attach: ptrace"):
			seen++
		}
		if seen == threads && attached > 0 {
			return ""
		}
	}
	return "it says: " + text.String()
}

// arguments has all calls traced that faults are for, and nothing printed but strace's own messages.
func arguments(fault []string) []string {
	args := []string{"-o", "/dev/null"}
	var calls []string
	for _, f := range fault {
		call, _, _ := strings.Cut(f, ":")
		calls = append(calls, call)
		args = append(args, "-e", "inject="+f)
	}
	return append(args, "-e", "trace="+strings.Join(calls, ","))
}

func executable(t testing.TB) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func need(t testing.TB) string {
	t.Helper()
	program, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("needs strace: apt-get install strace")
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root: a process is traced")
	}
	return program
}

// refused skips the test where nobody may trace, as under a seccomp filter or Yama's scope 3.
func refused(t testing.TB, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		if strings.Contains(line, "strace: ") && strings.Contains(line, "Operation not permitted") {
			t.Skipf("processes cannot be traced here: %s", strings.TrimSpace(line))
		}
	}
}
