package client_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/shim/client"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(b), ") Z ")
}

func TestDeathOfTheShim(t *testing.T) {
	l := newLab(t)
	pids := []int{l.shell("running", "sleep 1000"), l.shell("busy", "while :; do sleep 0.001; done")}
	created, err := l.client.Create(l.ctx, l.request("created", l.spec("created", "true")))
	if err != nil {
		t.Fatal(err)
	}
	shared := l.spec("host-pids", "sh", "-c", "sleep 1000 & sleep 1000")
	shared.Linux.Namespaces = slices.DeleteFunc(shared.Linux.Namespaces, isPID)
	pids = append(pids, created, l.run(l.request("host-pids", shared)))
	paused := l.shell("paused", "sleep 1000")
	if err := l.client.Pause(l.ctx, "paused"); err != nil {
		t.Fatal(err)
	}
	pids = append(pids, paused)
	all, err := l.client.Pids(l.ctx, "host-pids")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		pids = append(pids, int(p))
	}
	events, err := l.client.Events(l.ctx)
	if err != nil {
		t.Fatal(err)
	}
	first := l.client.Pid()
	if err := unix.Kill(first, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for range events { // closed when the connection breaks
	}
	if _, err := l.client.List(l.ctx); err != nil && !errdefs.IsUnavailable(err) {
		t.Errorf("List during the replacement: %v", err)
	}
	l.eventually("a new shim is there", func() bool { return l.client.Pid() != 0 && l.client.Pid() != first })
	lost := l.client.Lost()
	slices.Sort(lost)
	want := []string{"busy", "created", "host-pids", "paused", "running"}
	if !slices.Equal(lost, want) {
		t.Errorf("lost: %v", lost)
	}
	events, err = l.client.Events(l.ctx)
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	for range want {
		e := <-events
		if e.Type != task.EventLost {
			t.Errorf("event %+v", e)
		}
		told = append(told, e.ID)
	}
	slices.Sort(told)
	if !slices.Equal(told, want) {
		t.Errorf("events told of %v", told)
	}
	for _, pid := range pids {
		l.eventually(fmt.Sprintf("process %d is gone", pid), func() bool { return !alive(pid) })
	}
	if list, err := l.client.List(l.ctx); err != nil || len(list) != 0 {
		t.Errorf("the new shim holds %v, %v", list, err)
	}
	for _, id := range want {
		l.gone(id)
	}
	l.shell("running", "exit 4") // the same ID again
	if exit := l.finish("running"); exit.Code != 4 {
		t.Errorf("code %d", exit.Code)
	}
	if slices.Contains(l.client.Lost(), "running") {
		t.Error("one that was created again is still lost")
	}
}

func TestWaitFailsWhenTheShimDies(t *testing.T) {
	l := newLab(t)
	l.shell("c", "sleep 1000")
	result := make(chan error, 1)
	go func() {
		_, err := l.client.Wait(l.ctx, "c", "")
		result <- err
	}()
	dead := l.client.Pid()
	if err := unix.Kill(dead, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := <-result; !errdefs.IsUnavailable(err) && !errdefs.IsNotFound(err) {
		t.Errorf("Wait gave %v", err)
	}
	// For a moment the client still names the dead one, whose containers only its successor's start takes away.
	l.eventually("a new shim is there", func() bool { pid := l.client.Pid(); return pid != 0 && pid != dead })
}

func TestTheShimOutlivesItsClientAndSignals(t *testing.T) {
	l := newLab(t)
	pid := l.shell("c", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done")
	shim := l.client.Pid()
	if err := l.client.Close(); err != nil {
		t.Fatal(err)
	}
	for _, s := range []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP} {
		if err := unix.Kill(shim, s); err != nil {
			t.Fatal(err)
		}
	}
	before := len(l.log("c"))
	l.eventually("the log goes on", func() bool { return len(l.log("c")) > before+5 })
	again, err := client.Start(l.ctx, l.options)
	if err != nil {
		t.Fatal(err)
	}
	l.client = again
	if again.Pid() != shim {
		t.Errorf("shim %d took the place of %d", again.Pid(), shim)
	}
	info, err := again.State(l.ctx, "c")
	if err != nil || info.Pid != pid || info.Status != task.Running {
		t.Errorf("%+v, %v", info, err)
	}
	if err := again.Shutdown(l.ctx); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Shutdown with a container: %v", err)
	}
	l.kill("c")
	l.finish("c")
	if err := again.Shutdown(l.ctx); err != nil {
		t.Error(err)
	}
	l.client = nil
	l.eventually("the shim is gone", func() bool { return errors.Is(unix.Kill(shim, 0), unix.ESRCH) })
}

func TestASecondShimIsRefused(t *testing.T) {
	l := newLab(t)
	shim := l.client.Pid()
	second, err := client.Start(l.ctx, l.options)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if second.Pid() != shim {
		t.Errorf("two shims: %d and %d", shim, second.Pid())
	}
}

func TestAShimWhoseStateWasRemovedEndsAfterItsContainers(t *testing.T) {
	l := newLab(t)
	pid, shim := l.shell("c", "sleep 1000"), l.client.Pid()
	if err := l.client.Close(); err != nil {
		t.Fatal(err)
	}
	l.client = nil
	if err := os.RemoveAll(filepath.Join(l.state, "shim")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	l.eventually("the shim is gone", func() bool { return !alive(shim) })
	if left := l.leftCgroups("c"); len(left) > 0 {
		t.Errorf("cgroups are left: %v", left)
	}
}

// Containers whose processes do not die make nobody wait for the next shim longer than one of them does.
func TestContainersThatDoNotDieAreEndedSideBySide(t *testing.T) {
	l := newLab(t)
	ice := filepath.Join("/sys/fs/cgroup/freezer", filepath.Base(l.state)+"-ice")
	if _, err := os.Stat(filepath.Join(filepath.Dir(ice), "cgroup.procs")); err != nil {
		t.Skip("needs the freezer of cgroup v1: elsewhere what is frozen dies")
	}
	if err := os.Mkdir(ice, 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(file, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(ice, file), []byte(text), 0); err != nil {
			t.Error(err)
		}
	}
	var pids []int
	for i := range 4 {
		pids = append(pids, l.shell(fmt.Sprint("frozen", i), "sleep 1000"))
	}
	defer func() {
		write("freezer.state", "THAWED")
		for _, pid := range pids {
			l.eventually("a frozen process is gone", func() bool { return !alive(pid) })
		}
		if err := os.Remove(ice); err != nil {
			t.Error(err)
		}
		for _, id := range []string{"frozen0", "frozen1", "frozen2", "frozen3"} { // as the next sweep would
			for _, dir := range l.leftCgroups(id) {
				_ = unix.Rmdir(dir)
			}
		}
	}()
	write("freezer.state", "FROZEN")
	for _, pid := range pids {
		write("cgroup.procs", fmt.Sprint(pid))
	}
	first := l.client.Pid()
	if err := unix.Kill(first, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	l.eventually("a new shim is there", func() bool { return l.client.Pid() != 0 && l.client.Pid() != first })
	l.shell("other", "exit 3")
	if exit := l.finish("other"); exit.Code != 3 {
		t.Errorf("code %d", exit.Code)
	}
	l.hook.mu.Lock()
	defer l.hook.mu.Unlock()
	if slices.Contains(l.hook.entries, "cannot reach the shim, will try again") {
		t.Error("they were waited for one after the other")
	}
	if !slices.Contains(l.hook.entries, "a container that its shim left cannot be ended") {
		t.Error("all were ended")
	}
}
