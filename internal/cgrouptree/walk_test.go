package cgrouptree

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// attackEnv makes the test's program one that makes cgroups below a folder, faster than they can be looked through.
const attackEnv = "CGROUPTREE_TEST_MAKES_CGROUPS_IN"

func TestMain(m *testing.M) {
	if root := os.Getenv(attackEnv); root != "" {
		makeCgroups(root)
		return
	}
	os.Exit(m.Run())
}

// makeCgroups makes chains of cgroups until it is killed, at most so many that they can be removed again.
func makeCgroups(root string) {
	for chain := range 10_000 {
		path := filepath.Join(root, strconv.Itoa(chain))
		for range 20 {
			if err := os.Mkdir(path, 0o755); err != nil {
				break
			}
			path = filepath.Join(path, "x")
		}
	}
	select {}
}

// wide makes a cgroup with n others right below it, and one deep chain.
func wide(t *testing.T, n int) (tr Tree, root string) {
	t.Helper()
	tr = tree(t)
	root = tr.list()
	for i := range n {
		if err := os.Mkdir(filepath.Join(root, fmt.Sprintf("a-cgroup-with-a-name-%d", i)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(root, "deep", strings.Repeat("x/", 100)), 0o755); err != nil {
		t.Fatal(err)
	}
	return tr, root
}

func heap() int {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// All cgroups are visited once, however many lie side by side, and their names are never all in memory.
func TestManyCgroupsAreVisitedWithLittleMemory(t *testing.T) {
	const n = 8000
	tr, root := wide(t, n)
	before, grown, visits := heap(), 0, 0
	seen := map[uint64]bool{}
	err := walk(context.Background(), root, visitor{enter: func(dir *os.File) error {
		if visits++; visits%1000 == 2 {
			grown = max(grown, heap()-before)
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
			return err
		}
		if seen[st.Ino] {
			return errors.New("a cgroup was visited twice")
		}
		seen[st.Ino] = true
		if visits == 2 { // what comes while it goes on changes nothing for the others
			if err := os.Mkdir(filepath.Join(root, "new"), 0o755); err != nil {
				return err
			}
			return os.Remove(filepath.Join(root, "new"))
		}
		return nil
	}})
	if want := n + 1 + 1 + 101; err != nil || visits != want { // root, below, the chain
		t.Errorf("%d cgroups were visited, want %d: %v", visits, want, err)
	}
	if most := n*30 + 128<<10; grown > most { // seen has some of it
		t.Errorf("the heap has grown by %d bytes, want %d at most", grown, most)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := tr.Remove(ctx); err != nil {
		t.Error(err)
	}
}

// A list of processes is not made from any number of cgroups.
func TestTooManyCgroupsAreNotListed(t *testing.T) {
	tr, _ := wide(t, maxListed)
	if _, err := tr.Pids(); !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), tr.list()) {
		t.Errorf("Pids: %v", err)
	}
	if _, err := tr.Stats(); !errdefs.IsResourceExhausted(err) {
		t.Errorf("Stats: %v", err)
	}
	enter(t, tr, "below")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := errors.Join(tr.Kill(ctx), tr.Remove(ctx)); err != nil {
		t.Errorf("kill and remove: %v", err)
	}
	over, cancel := context.WithCancel(context.Background())
	cancel()
	if err := walk(over, filepath.Dir(tr.list()), visitor{enter: func(*os.File) error { return nil }}); !errors.Is(err, context.Canceled) {
		t.Errorf("a walk without time: %v", err)
	}
}

// Who makes cgroups without end is killed all the same.
func TestWhoMakesCgroupsWithoutEndIsKilled(t *testing.T) {
	tr := tree(t)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), attackEnv+"="+filepath.Join(tr.list(), "below"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	for _, p := range tr {
		if err := os.WriteFile(filepath.Join(p, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
			t.Fatal(err)
		}
	}
	for until := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(filepath.Join(tr.list(), "below/100")); err == nil {
			break
		}
		if time.Now().After(until) {
			t.Fatal("it makes no cgroups")
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := tr.Kill(ctx); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err == nil || err.Error() != "signal: killed" {
		t.Errorf("it ended with %v", err)
	}
	if _, err := os.Stat(filepath.Join(tr.list(), "below/9999")); err == nil {
		t.Error("it made all that it wanted to before it was killed")
	}
	if err := tr.Remove(ctx); err != nil {
		t.Error(err)
	}
}

// What root inside has frozen by itself dies too.
func TestAFrozenPartIsKilled(t *testing.T) {
	tr := tree(t)
	p := tr["freezer"]
	if p == "" {
		t.Skip("needs the freezer of cgroup v1: on v2 what is frozen can be killed")
	}
	frozen := enter(t, tr, "below")
	if err := os.WriteFile(filepath.Join(p, "below/freezer.state"), []byte("FROZEN"), 0); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- frozen.Wait() }()
	if err := tr.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil || err.Error() != "signal: killed" {
		t.Errorf("it ended with %v", err)
	}
}
