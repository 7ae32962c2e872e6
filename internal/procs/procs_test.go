package procs

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// child starts a program that runs until the test ends.
func child(t *testing.T, argv ...string) uint32 {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close(); _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return uint32(cmd.Process.Pid)
}

func these(pids ...uint32) func() ([]uint32, error) {
	return func() ([]uint32, error) { return slices.Clone(pids), nil }
}

func TestRead(t *testing.T) {
	first := child(t, "cat", "-", "odd \x1b[31m\xff\nline")
	second := child(t, "cat", "-", strings.Repeat("x", 2000))
	found, omitted, err := Read(these(second, first), int(first), 10)
	if err != nil || omitted != 0 || len(found) != 2 {
		t.Fatalf("%v, %d omitted, %v", found, omitted, err)
	}
	slices.SortFunc(found, func(a, b Process) int { return len(a.Command) - len(b.Command) })
	if p := found[0]; p.Command != "cat - odd \x1b[31m\xff\nline" || p.HostPID != int(first) || p.PID != int(first) || p.Parent != 0 || p.State != 'S' && p.State != 'R' {
		t.Errorf("%+v", p)
	}
	if n := len(found[1].Command); n != CommandMax {
		t.Errorf("the long command line has %d bytes", n)
	}
	// The parent is told where it is one of the container's.
	self := uint32(os.Getpid())
	found, _, err = Read(these(self, first), int(self), 10)
	if err != nil || len(found) != 2 {
		t.Fatalf("%v, %v", found, err)
	}
	for _, p := range found {
		if p.HostPID == int(first) && p.Parent != int(self) {
			t.Errorf("the parent is %d, wanted %d", p.Parent, self)
		}
	}
}

func TestReadKeepsPid1WhereThereAreTooMany(t *testing.T) {
	var pids []uint32
	for range 4 {
		pids = append(pids, child(t, "cat"))
	}
	last := slices.Max(pids)
	found, omitted, err := Read(these(pids...), int(last), 2)
	if err != nil || omitted != 2 || len(found) != 2 || !slices.ContainsFunc(found, func(p Process) bool { return p.HostPID == int(last) }) {
		t.Errorf("%v, %d omitted, %v", found, omitted, err)
	}
}

// A pid that went to another process meanwhile is none of the container's.
func TestReadLeavesOutWhatIsNotListedAgain(t *testing.T) {
	first, second := child(t, "cat"), child(t, "cat")
	looks := 0
	list := func() ([]uint32, error) {
		if looks++; looks == 1 {
			return []uint32{first, second, 1 << 30}, nil
		}
		return []uint32{first, 1 << 30}, nil
	}
	if found, _, err := Read(list, int(first), 10); err != nil || len(found) != 1 || found[0].HostPID != int(first) {
		t.Errorf("%v, %v", found, err)
	}
	if found, _, err := Read(these(first), 1<<30, 10); err != nil || len(found) != 0 {
		t.Errorf("pid 1 has gone: %v, %v", found, err)
	}
	boom := errors.New("boom")
	if _, _, err := Read(func() ([]uint32, error) { return nil, boom }, 1, 1); !errors.Is(err, boom) {
		t.Error(err)
	}
}

func TestReadNamesAZombie(t *testing.T) {
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait() //nolint:errcheck // it was read until its end
	_ = in.Close()
	pid := uint32(cmd.Process.Pid)
	for {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(field(b, "State"), "Z") {
			break
		}
	}
	self := uint32(os.Getpid())
	found, _, err := Read(these(self, pid), int(self), 10)
	i := slices.IndexFunc(found, func(p Process) bool { return p.HostPID == int(pid) })
	if err != nil || i < 0 || found[i].Command != "[cat]" || found[i].State != 'Z' {
		t.Errorf("%v, %v", found, err)
	}
}
