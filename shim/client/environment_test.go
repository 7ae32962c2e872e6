package client_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cri-pouch/cri-pouch/integration/faults"
	"github.com/cri-pouch/cri-pouch/shim/client"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

// shimFaults are errors of the environment at the system calls of the shim's standing services.
var shimFaults = map[string][]string{
	"accept4":           {"ENOMEM", "EMFILE", "ENFILE", "ENOBUFS", "EAGAIN"},
	"epoll_ctl":         {"ENOSPC", "ENOMEM"},
	"getsockopt":        {"ENOBUFS", "ENOMEM"},
	"openat":            {"ENOMEM", "EMFILE", "ENFILE"},
	"newfstatat":        {"ENOMEM"},
	"inotify_add_watch": {"ENOSPC", "ENOMEM"},
	"pidfd_open":        {"EMFILE", "ENFILE", "ENOMEM"},
	"eventfd2":          {"EMFILE", "ENFILE", "ENOMEM"},
	"ppoll":             {"ENOMEM"},
	"fcntl":             {"EMFILE"},
	"pipe2":             {"EMFILE", "ENFILE"},
	"mkdirat":           {"ENOMEM", "ENOSPC"},
	"getdents64":        {"ENOMEM"},
}

// pressLimit bounds each thing that is asked of the shim while it lacks something: it may never answer.
const pressLimit = 3 * time.Second

// The shim's answers may be errors while the kernel has too little of something. It does not end for that, the life and the
// log of a bystander go on, and a container that ends meanwhile is reported with its code and its last words.
func TestTheShimOutlivesErrorsOfItsEnvironment(t *testing.T) {
	l := newLab(t)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	t.Cleanup(cancel)
	l.ctx = ctx
	bystander := l.shell("bystander", "i=0; while :; do echo $i; i=$((i+1)); sleep 0.02; done")
	shim := l.client.Pid()
	turn := 0
	for call, errnos := range shimFaults {
		for _, errno := range errnos {
			turn++
			t.Run(call+"="+errno, func(t *testing.T) {
				ending := fmt.Sprint("ending-", turn)
				l.shell(ending, "until test -e /v/"+ending+"; do sleep 0.02; done; echo last words; exit 5")
				detach := faults.Attach(t, shim, call+":error="+errno)
				pressed := fmt.Sprint("pressed-", turn)
				l.press(ending, pressed)
				detach()
				if now := l.answers(t); now != shim {
					t.Fatalf("shim %d has taken the place of %d", now, shim)
				}
				if exit := l.finish(ending); exit.Code != 5 || l.text(ending, "stdout") != "last words\n" {
					t.Errorf("a container that ended meanwhile: %+v, log %q", exit, l.text(ending, "stdout"))
				}
				l.endPressed(t, pressed)
				if info, err := l.client.State(l.ctx, "bystander"); err != nil || info.Status != task.Running || info.Pid != bystander {
					t.Fatalf("the bystander: %+v, %v", info, err)
				}
				if out, exit := l.exec("bystander", "echo", "here"); exit.Code != 0 || out != "here\n" {
					t.Errorf("exec in the bystander: %+v, %q", exit, out)
				}
				after := fmt.Sprint("after-", turn)
				l.shell(after, "echo said; exit 3")
				if exit := l.finish(after); exit.Code != 3 || l.text(after, "stdout") != "said\n" {
					t.Errorf("a container made afterwards: %+v, log %q", exit, l.text(after, "stdout"))
				}
			})
		}
	}
	l.kill("bystander")
	l.finish("bystander")
	for i, r := range l.log("bystander") {
		if r.content != fmt.Sprint(i) {
			t.Fatalf("line %d of the bystander's log is %q", i, r.content)
		}
	}
}

// press uses the shim's services once each, whatever comes of it: a new connection, a new container with its streams, and
// the end of one that runs.
func (l *lab) press(ending, id string) {
	l.t.Helper()
	limited := func(fn func(ctx context.Context)) {
		ctx, cancel := context.WithTimeout(l.ctx, pressLimit)
		defer cancel()
		fn(ctx)
	}
	if err := os.WriteFile(filepath.Join(l.rootfs, "v", ending), nil, 0o644); err != nil {
		l.t.Fatal(err)
	}
	limited(func(ctx context.Context) {
		if c, err := client.Start(ctx, l.options); err == nil {
			_ = c.Close()
		}
	})
	request := l.request(id, l.spec(id, "sh", "-c", "echo said; until test -e /v/"+id+"; do sleep 0.02; done; echo again; exit 4"))
	limited(func(ctx context.Context) {
		if _, err := l.client.Create(ctx, request); err == nil {
			_, _ = l.client.Start(ctx, id)
		}
	})
	limited(func(ctx context.Context) { _, _ = l.client.Wait(ctx, ending, "") })
}

// endPressed ends the container that was asked for, if it came to be. If it runs, its log and its end are as any other's.
func (l *lab) endPressed(t *testing.T, id string) {
	t.Helper()
	var info task.Info
	var err error
	l.eventually("it is known what became of "+id, func() bool {
		info, err = l.client.State(l.ctx, id)
		return err == nil && !info.Starting || errdefs.IsNotFound(err)
	})
	switch {
	case err != nil:
		t.Log("it did not come to be")
		return
	case info.Status != task.Running:
		l.kill(id)
		l.finish(id)
		return
	}
	if err := os.WriteFile(filepath.Join(l.rootfs, "v", id), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if exit := l.finish(id); exit.Code != 4 || l.text(id, "stdout") != "said\nagain\n" {
		t.Errorf("a container that was made meanwhile: %+v, log %q", exit, l.text(id, "stdout"))
	}
}

// answers waits until the shim answers new connections and the lab's own, and gives its process.
func (l *lab) answers(t *testing.T) int {
	t.Helper()
	c, err := client.Start(l.ctx, l.options)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	l.eventually("the old connection answers, or another has taken its place", func() bool {
		_, err := l.client.List(l.ctx)
		return err == nil
	})
	return c.Pid()
}
