package server

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"golang.org/x/sys/unix"
)

// TestMain lets the test binary be the other daemon: a lock of one's own process would not conflict by pid.
func TestMain(m *testing.M) {
	if dirs := os.Getenv("CLAIM_FOR_TEST"); dirs != "" {
		root, state, _ := strings.Cut(dirs, ":")
		if _, err := claim(Config{Root: root, State: state}); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("claimed")
		_, _ = io.Copy(io.Discard, os.Stdin) // until the test closes it
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// other starts a process that claims root and state; release ends it.
func other(t *testing.T, root, state string) (pid int, release func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "CLAIM_FOR_TEST="+root+":"+state)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	release = func() {
		in.Close()
		_ = cmd.Wait()
	}
	t.Cleanup(release)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "claimed\n" {
		t.Fatalf("the other daemon says %q, %v", line, err)
	}
	return cmd.Process.Pid, release
}

func TestClaimIsExclusive(t *testing.T) {
	base := t.TempDir()
	root, state := filepath.Join(base, "root"), filepath.Join(base, "state")
	pid, release := other(t, root, state)
	for name, tc := range map[string]struct{ root, state, want string }{
		"the same root":  {root, filepath.Join(base, "state2"), "give this one another --root"},
		"the same state": {filepath.Join(base, "root2"), state, "give this one another --state"},
	} {
		_, err := claim(Config{Root: tc.root, State: tc.state})
		if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), fmt.Sprintf("pid %d", pid)) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want pid %d and %q", name, err, pid, tc.want)
		}
	}
	release()
	unlock, err := claim(Config{Root: root, State: state})
	if err != nil {
		t.Fatalf("after the other's end: %v", err)
	}
	unlock()
	// A failed claim must not keep what it got before the failure.
	if unlock, err = claim(Config{Root: filepath.Join(base, "root2"), State: state}); err != nil {
		t.Fatalf("after a failed claim: %v", err)
	}
	unlock()
}

func TestServeWithoutShim(t *testing.T) {
	base := t.TempDir()
	c := Default()
	c.Root, c.State, c.Runtime.ShimBinary = filepath.Join(base, "root"), filepath.Join(base, "state"), filepath.Join(base, "none")
	logger, _ := logtest.NewNullLogger()
	for range 2 { // the first leaves nothing behind that the second trips over
		err := Serve(t.Context(), Options{Config: c, Log: logrus.NewEntry(logger)})
		if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "runtime.shim_binary") {
			t.Errorf("got %v", err)
		}
	}
}

func TestClaimNarrowsModes(t *testing.T) {
	base := t.TempDir()
	root, state := filepath.Join(base, "a/root"), filepath.Join(base, "state")
	if err := os.MkdirAll(root, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(state, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(state, 0o777); err != nil {
		t.Fatal(err)
	}
	unlock, err := claim(Config{Root: root, State: state})
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	for dir, want := range map[string]os.FileMode{root: 0o700, state: 0o711, filepath.Join(state, "lock"): 0o600} {
		info, err := os.Stat(dir)
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s has mode %v (%v), want %v", dir, info.Mode().Perm(), err, want)
		}
	}
}

func TestClaimRefusesAnothersFolder(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: gives a folder to another user")
	}
	root := filepath.Join(t.TempDir(), "root")
	if err := os.Mkdir(root, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(root, 12345, 12345); err != nil {
		t.Fatal(err)
	}
	if _, err := claim(Config{Root: root, State: t.TempDir()}); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "another user") {
		t.Errorf("got %v", err)
	}
}

func TestClaimFollowsNoLink(t *testing.T) {
	base := t.TempDir()
	victim := filepath.Join(base, "victim")
	if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(base, "root")
	if err := os.Mkdir(root, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, filepath.Join(root, "lock")); err != nil {
		t.Fatal(err)
	}
	if _, err := claim(Config{Root: root, State: filepath.Join(base, "state")}); err == nil {
		t.Error("a symbolic link was taken for the lock")
	}
	if b, _ := os.ReadFile(victim); string(b) != "precious" {
		t.Errorf("the link's target was written: %q", b)
	}
}

func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub/x.sock")
	l, err := listen(path, fmt.Sprint(os.Getgid()))
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != os.ModeSocket|0o660 {
		t.Errorf("socket has mode %v (%v), want 0660", info.Mode(), err)
	}
	if _, err := listen(path, ""); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "served by another process") {
		t.Errorf("a live socket: %v", err)
	}
	// What SIGKILL leaves: the file without a listener.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if l, err = listen(path, ""); err != nil {
		t.Fatalf("a stale socket: %v", err)
	}
	l.Close()
}

func TestListenRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listen(file, ""); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("a file in the place of the socket: %v", err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("the file was removed: %v", err)
	}
	if _, err := listen(filepath.Join(t.TempDir(), "s"), "no-such-group"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("an unknown group: %v", err)
	}
}

func TestSystemdCgroup(t *testing.T) {
	for _, tc := range []struct {
		driver string
		h      host
		want   bool
		fails  bool
	}{
		{"auto", host{systemd: true, cgroupV2: true}, true, false},
		{"auto", host{systemd: true}, false, false},
		{"auto", host{cgroupV2: true}, false, false},
		{"cgroupfs", host{systemd: true, cgroupV2: true}, false, false},
		{"systemd", host{systemd: true}, true, false},
		{"systemd", host{cgroupV2: true}, false, true},
	} {
		got, err := systemdCgroup(tc.driver, tc.h)
		if got != tc.want || (err != nil) != tc.fails {
			t.Errorf("%s on %+v: %v, %v", tc.driver, tc.h, got, err)
		}
	}
}

func TestFindBinary(t *testing.T) {
	beside, path := t.TempDir(), t.TempDir()
	program := func(dir, name string, mode os.FileMode) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, nil, mode); err != nil {
			t.Fatal(err)
		}
		return p
	}
	t.Setenv("PATH", path)
	self := filepath.Join(beside, "cri-pouch")
	if _, err := findBinary("", "shim", "runtime.shim_binary", self); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "runtime.shim_binary") {
		t.Errorf("nowhere: %v", err)
	}
	inPath := program(path, "shim", 0o755)
	if got, err := findBinary("", "shim", "k", self); got != inPath || err != nil {
		t.Errorf("in $PATH: %s, %v", got, err)
	}
	near := program(beside, "shim", 0o755)
	if got, err := findBinary("", "shim", "k", self); got != near || err != nil {
		t.Errorf("beside: %s, %v", got, err)
	}
	if got, err := findBinary(inPath, "shim", "k", self); got != inPath || err != nil {
		t.Errorf("configured: %s, %v", got, err)
	}
	if _, err := findBinary(program(path, "text", 0o644), "shim", "k", self); !errdefs.IsNotFound(err) {
		t.Errorf("configured, not executable: %v", err)
	}
}

// A daemon that was killed while it forked has left its lock to a child, for as long as that has not come to its execve.
func TestALockOfADeadDaemonIsWaitedFor(t *testing.T) {
	root, state := t.TempDir(), t.TempDir()
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(root, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintln(f, dead.Process.Pid); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(100*time.Millisecond, func() { f.Close() })
	unlock, err := claim(Config{Root: root, State: state})
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}
