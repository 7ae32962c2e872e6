// Package faults injects errors of system calls by strace(1): into a test that is run again in a process of its own, or
// into a process that runs already.
package faults

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
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

// Again runs the calling test again under the faults and gives false; its failures are the test's. It gives true in that
// second run. A fault reads as strace's -e inject=, "epoll_ctl:error=ENOSPC:when=2+": Go's runtime cannot do without its
// first call of epoll_ctl.
func Again(t testing.TB, fault ...string) bool {
	t.Helper()
	if os.Getenv(inside) != "" {
		return true
	}
	program := need(t)
	args := append(arguments(fault), "--", executable(t), "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=3m")
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

// Attach injects the faults into all threads of a process, and into what it starts, until detach is called.
func Attach(t testing.TB, pid int, fault ...string) (detach func()) {
	t.Helper()
	cmd := exec.Command(need(t), append(arguments(fault), "-p", strconv.Itoa(pid))...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	// The death of the test must not leave a traced process.
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := make(chan string, 1)
	gone := make(chan struct{})
	var text strings.Builder
	go func() {
		defer close(gone)
		attached := false
		for s := bufio.NewScanner(stderr); s.Scan(); {
			fmt.Fprintln(&text, s.Text())
			if !attached && strings.Contains(s.Text(), " attached") {
				attached = true
				said <- ""
			}
		}
		_ = cmd.Wait()
		if !attached {
			said <- text.String()
		}
	}()
	detach = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(unix.SIGINT)
		select {
		case <-gone:
		case <-time.After(attachLimit):
			_ = cmd.Process.Kill()
			<-gone
			t.Errorf("strace did not let go of process %d:\n%s", pid, text.String())
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

// arguments has all calls traced that faults are for, and nothing printed but strace's own messages.
func arguments(fault []string) []string {
	args := []string{"-f", "-o", "/dev/null"}
	var calls []string
	for _, f := range fault {
		call, _, _ := strings.Cut(f, ":")
		calls = append(calls, call)
		args = append(args, "-e", "inject="+f)
	}
	// Other calls do not stop the process.
	return append(args, "--seccomp-bpf", "-e", "trace="+strings.Join(calls, ","))
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
		if strings.HasPrefix(line, "strace: ") && strings.Contains(line, "Operation not permitted") {
			t.Skipf("processes cannot be traced here: %s", strings.TrimSpace(line))
		}
	}
}
