package client_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/hookrun"
	"github.com/cri-pouch/cri-pouch/shim/client"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

func TestRemovalByForceEndsHooks(t *testing.T) {
	l := newLab(t)
	// Deleted while it is being started.
	r := l.hooked("a", "true", []hookrun.Hook{l.script("slow", "echo up >/v/up; sleep 1000")}, nil)
	if _, err := l.client.Create(l.ctx, r); err != nil {
		t.Fatal(err)
	}
	started := make(chan error, 1)
	go func() {
		_, err := l.client.Start(l.ctx, "a")
		started <- err
	}()
	l.up()
	began := time.Now()
	if _, err := l.client.Delete(l.ctx, "a"); err != nil {
		t.Errorf("delete: %v", err)
	}
	if err := <-started; !errdefs.IsAborted(err) {
		t.Errorf("the start: %v", err)
	}
	l.gone("a")
	l.noHookLeft("a")
	// The shim is shut down in the middle of a poststop, and while a program runs that has one.
	if err := os.Remove(filepath.Join(l.rootfs, "v/up")); err != nil {
		t.Fatal(err)
	}
	slow := l.script("slow", "echo up >/v/up; sleep 1000")
	b := l.hooked("b", "true", nil, []hookrun.Hook{slow, l.script("next", "echo >/v/next")})
	l.run(b)
	c := l.hooked("c", "sleep 1000", nil, []hookrun.Hook{l.script("next", "echo >/v/next")})
	l.run(c)
	l.up()
	if err := l.client.ShutdownByForce(l.ctx); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > longEnough {
		t.Errorf("it took %s", took)
	}
	for _, id := range []string{"b", "c"} {
		l.gone(id)
		l.noHookLeft(id)
	}
	if got := outcomes(l.results(b)); got != "poststop slow failed 137, poststop next skipped 0" {
		t.Errorf("results of b: %s", got)
	}
	if got := outcomes(l.results(c)); got != "poststop next skipped 0" {
		t.Errorf("results of c: %s", got)
	}
	if _, err := os.Stat(filepath.Join(l.rootfs, "v/next")); err == nil {
		t.Error("a hook ran after the removal")
	}
	next, err := client.Start(l.ctx, l.options)
	if err != nil {
		t.Fatal(err)
	}
	l.client = next
}

func TestAShimKilledInTheMiddleOfHooks(t *testing.T) {
	l := newLab(t)
	poststop := l.hooked("after", "exit 3", nil, []hookrun.Hook{l.script("first", "true"), l.script("slow", "echo up >/v/up; sleep 1000")})
	l.run(poststop)
	l.up()
	if err := os.Remove(filepath.Join(l.rootfs, "v/up")); err != nil {
		t.Fatal(err)
	}
	prestart := l.hooked("before", "true", []hookrun.Hook{l.script("slow", "(setsid sh -c 'echo up >/v/up; sleep 1000' &); sleep 1000")}, nil)
	if _, err := l.client.Create(l.ctx, prestart); err != nil {
		t.Fatal(err)
	}
	started := make(chan error, 1)
	go func() {
		_, err := l.client.Start(l.ctx, "before")
		started <- err
	}()
	l.up()
	before := l.client.Pid()
	if err := unix.Kill(before, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := <-started; !errdefs.IsUnavailable(err) {
		t.Errorf("the start: %v", err)
	}
	l.eventually("another shim is there", func() bool { pid := l.client.Pid(); return pid != 0 && pid != before })
	for _, id := range []string{"before", "after"} {
		l.gone(id)
		l.noHookLeft(id)
	}
	lost := l.client.Lost()
	slices.Sort(lost)
	if !slices.Equal(lost, []string{"after", "before"}) {
		t.Errorf("lost are %v", lost)
	}
	if got := outcomes(l.results(poststop)); got != "poststop first succeeded 0" {
		t.Errorf("results %s", got)
	}
	if end, err := hookrun.ReadEnd(poststop.Bundle); err != nil || end.ExitCode != 3 {
		t.Errorf("end %+v, %v", end, err)
	}
}

func TestAHundredContainersWithHooks(t *testing.T) {
	l := newLab(t)
	const n = 100
	var all sync.WaitGroup
	errs := make(chan error, n)
	requests := make([]task.CreateRequest, n)
	for i := range n {
		requests[i] = l.hooked(fmt.Sprintf("c%d", i), "exit 5", []hookrun.Hook{l.script("wait", "sleep 3")}, []hookrun.Hook{l.script("after", "sleep 1; printf $POUCH_EXIT_CODE")})
	}
	began := time.Now()
	for _, r := range requests {
		all.Go(func() {
			if _, err := l.client.Create(l.ctx, r); err != nil {
				errs <- err
				return
			}
			if _, err := l.client.Start(l.ctx, r.ID); err != nil {
				errs <- err
				return
			}
			if exit, err := l.client.Wait(l.ctx, r.ID, ""); err != nil || exit.Code != 5 {
				errs <- fmt.Errorf("%s: %+v, %w", r.ID, exit, err)
			}
		})
	}
	// Meanwhile others are served.
	if _, err := l.client.List(l.ctx); err != nil {
		t.Error(err)
	}
	l.shell("other", "exit 0")
	l.finish("other")
	all.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	t.Logf("%d containers took %s", n, time.Since(began))
	for _, r := range requests {
		l.finish(r.ID)
		l.noHookLeft(r.ID)
		if results := l.results(r); outcomes(results) != "prestart wait succeeded 0, poststop after succeeded 0" || results[1].Output != "5" {
			t.Errorf("%s: %+v", r.ID, results)
		}
	}
	// Nothing stays in the shim: a container with hooks costs it no descriptor, no mount and no child.
	before, mounts := l.entries("fd"), l.mounts()
	for i := range 10 {
		id := fmt.Sprintf("d%d", i)
		l.run(l.hooked(id, "true", []hookrun.Hook{l.script("h", "true")}, []hookrun.Hook{l.script("h", "exit 1")}))
		l.finish(id)
	}
	l.eventually("no descriptor is left in the shim", func() bool { return l.entries("fd") <= before })
	if got := l.mounts(); got != mounts {
		t.Errorf("the shim has %d mounts instead of %d", got, mounts)
	}
	l.eventually("no child is left of the shim", func() bool { return l.children() == "" })
}

// mounts counts those of the lab that the shim sees: others are of the host.
func (l *lab) mounts() int {
	l.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", l.client.Pid()))
	if err != nil {
		l.t.Fatal(err)
	}
	return strings.Count(string(b), l.state)
}

// children lists those of the shim, zombies too.
func (l *lab) children() string {
	l.t.Helper()
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", l.client.Pid()))
	if err != nil || len(lists) == 0 {
		l.t.Fatalf("children of the shim: %v, %v", lists, err)
	}
	var all strings.Builder
	for _, list := range lists {
		b, err := os.ReadFile(list)
		if err != nil && !os.IsNotExist(err) && !errors.Is(err, unix.ESRCH) {
			l.t.Fatal(err)
		}
		all.Write(b)
	}
	return all.String()
}

// entries counts what is in a folder of the shim's /proc.
func (l *lab) entries(name string) int {
	l.t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/%s", l.client.Pid(), name))
	if err != nil {
		l.t.Fatal(err)
	}
	return len(list)
}
