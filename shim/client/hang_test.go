package client_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/integration/fusefs"
	"github.com/cri-pouch/cri-pouch/internal/hookrun"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

// servedLimit is how long a bystander waits at most, before the test is over: without a fix it would wait for ever.
const servedLimit = 40 * time.Second

// fuse mounts a file system that can stop answering.
func (l *lab) fuse(dir string, o fusefs.Options) *fusefs.FS {
	l.t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		l.t.Fatal(err)
	}
	f, err := fusefs.Mount(dir, o)
	if errors.Is(err, fs.ErrNotExist) {
		l.t.Skip("needs /dev/fuse")
	}
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		if err := f.Close(); err != nil {
			l.t.Error(err)
		}
	})
	return f
}

func (l *lab) awaitHang(f *fusefs.FS, op fusefs.Op) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.ctx, longEnough)
	defer cancel()
	if err := f.AwaitHang(ctx, op); err != nil {
		l.t.Fatal(err)
	}
}

// ownRootfs copies the root filesystem for one container.
func (l *lab) ownRootfs(id string) string {
	l.t.Helper()
	rootfs := filepath.Join(l.state, "rootfs-"+id)
	if out, err := exec.Command("cp", "-a", l.rootfs, rootfs).CombinedOutput(); err != nil {
		l.t.Fatalf("copy the root filesystem: %v: %s", err, out)
	}
	return rootfs
}

// ofPod makes the container one of a pod of its own: a pod's launches have bounds of their own.
func ofPod(pod string, spec *specs.Spec) *specs.Spec {
	spec.Annotations = map[string]string{task.PodAnnotation: pod}
	return spec
}

// creating creates a container in the background.
func (l *lab) creating(r task.CreateRequest) <-chan error {
	ended := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		_, err := l.client.Create(ctx, r)
		ended <- err
	}()
	return ended
}

// served fails the test unless a container that has nothing to do with an attack is served: exec, create, start, log and stop.
func (l *lab) served(round int) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), servedLimit)
	defer cancel()
	bystander := fmt.Sprintf("bystander-%d", round)
	request := l.request(bystander, ofPod(bystander, l.spec(bystander, "sh", "-c", "echo up; sleep 1000")))
	execution := task.ExecRequest{ID: bystander, ExecID: "x", Process: l.process("true")}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"create", func() error { _, err := l.client.Create(ctx, request); return err }},
		{"start", func() error { _, err := l.client.Start(ctx, bystander); return err }},
		{"log", func() error {
			for l.text(bystander, "stdout") != "up\n" {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				time.Sleep(5 * time.Millisecond)
			}
			return nil
		}},
		{"exec", func() error {
			_, err := l.client.Exec(ctx, execution)
			if err == nil {
				_, err = l.client.Wait(ctx, bystander, "x")
			}
			return err
		}},
		{"kill", func() error { return l.client.Kill(ctx, bystander, uint32(unix.SIGKILL), true) }},
		{"end", func() error { _, err := l.client.Wait(ctx, bystander, ""); return err }},
		{"delete", func() error { _, err := l.client.Delete(ctx, bystander); return err }},
	} {
		if err := step.do(); err != nil {
			l.t.Fatalf("a bystander's %s: %v", step.name, err)
		}
	}
	l.gone(bystander)
}

// nothingMounted fails the test unless the shim sees the mounts only that the test has made.
func (l *lab) nothingMounted(want int) {
	l.t.Helper()
	l.eventually("nothing is mounted any more", func() bool { return l.mounts() == want })
}

// threadsAtHome waits until all threads of the shim are in the host's mount namespace.
func (l *lab) threadsAtHome() {
	l.t.Helper()
	home, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		l.t.Fatal(err)
	}
	l.eventually("all threads are in the host's mount namespace", func() bool {
		spaces, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/ns/mnt", l.client.Pid()))
		for _, space := range spaces {
			if at, err := os.Readlink(space); err == nil && at != home {
				return false
			}
		}
		return err == nil && len(spaces) > 0
	})
}

func TestRootFilesystemThatHangsAtExec(t *testing.T) {
	l := newLab(t)
	spec := ofPod("victim", l.spec("victim", "sh", "-c", "sleep 1000"))
	spec.Root.Path = l.ownRootfs("victim")
	l.run(l.request("victim", spec))
	f := l.fuse(spec.Root.Path, fusefs.Options{})
	f.HangOn()
	executed := make(chan error, 1)
	go func() {
		_, err := l.client.Exec(l.ctx, task.ExecRequest{ID: "victim", ExecID: "x", Process: l.process("true")})
		executed <- err
	}()
	for round := range 5 {
		l.served(round)
	}
	select { // nobody but the container needs its root filesystem
	case err := <-executed:
		if err != nil {
			t.Errorf("exec in a container whose root filesystem hangs on the host: %v", err)
		}
	case <-time.After(servedLimit):
		t.Error("an exec waits for a root filesystem on the host")
	}
}

func TestRootFilesystemThatHangsAtCreation(t *testing.T) {
	for name, o := range map[string]fusefs.Options{"asked": {}, "default permissions": {DefaultPermissions: true}} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			spec := ofPod("victim", l.spec("victim", "true"))
			spec.Root.Path = filepath.Join(l.state, "hanging")
			f := l.fuse(spec.Root.Path, o)
			// It is looked at before the fork, and enters no folder from then on.
			looks := 0
			f.When(func(r fusefs.Request) fusefs.Verdict {
				if r.Op == fusefs.Getattr {
					looks++
				}
				if r.Op == fusefs.Access || r.Op == fusefs.Lookup || looks > 2 {
					return fusefs.Hang
				}
				return fusefs.Serve
			})
			created := l.creating(l.request("victim", spec))
			l.awaitHang(f, fusefs.Any)
			for round := range 5 {
				l.served(round)
			}
			if err := f.Abort(); err != nil {
				t.Fatal(err)
			}
			if err := <-created; err == nil {
				t.Error("a container whose root filesystem has died is created")
			}
			l.gone("victim")
			l.threadsAtHome()
			l.eventually("no process of it is left", func() bool { return l.children() == "" })
		})
	}
}

// idMapped is the specification of a container with a user namespace and a volume that is idmapped into it.
func (l *lab) idMapped(id, source string) *specs.Spec {
	l.t.Helper()
	if err := os.Chmod(l.state, 0o711); err != nil { // root of the namespace must reach its root filesystem
		l.t.Fatal(err)
	}
	mapping := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	spec := ofPod(id, l.spec(id, "sh", "-c", "ls -ln /v"))
	spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	spec.Linux.UIDMappings, spec.Linux.GIDMappings = mapping, mapping
	spec.Mounts = append(spec.Mounts, specs.Mount{
		Destination: "/v", Type: "bind", Source: source, Options: []string{"bind"}, UIDMappings: mapping, GIDMappings: mapping,
	})
	return spec
}

// The creations are given up after a minute; libcontainer gives up its own requests for mounts after one too.
func TestIDMappedMountThatHangs(t *testing.T) {
	l := newLab(t)
	dir := filepath.Join(l.state, "volume")
	f := l.fuse(dir, fusefs.Options{DefaultPermissions: true, IDMap: true})
	// The init is served: libcontainer's request for the mount comes after the init has looked at it.
	tasks := fmt.Sprintf("/proc/%d/task", l.client.Pid())
	f.When(func(r fusefs.Request) fusefs.Verdict {
		if _, err := os.Stat(filepath.Join(tasks, strconv.Itoa(r.Pid))); err == nil && r.Op == fusefs.Lookup {
			return fusefs.Hang
		}
		return fusefs.Serve
	})
	mounts := l.mounts()
	source := filepath.Join(dir, fusefs.Folder)
	var creations []<-chan error
	for i := range 3 {
		id := fmt.Sprintf("victim-%d", i)
		creations = append(creations, l.creating(l.request(id, l.idMapped(id, source))))
	}
	l.awaitHang(f, fusefs.Lookup)
	l.served(0)
	for i, created := range creations {
		err := <-created
		if !errdefs.IsDeadlineExceeded(err) || !strings.Contains(err.Error(), source) {
			t.Errorf("creation %d with a mount that hangs: %v", i, err)
		}
	}
	l.served(1)
	f.Resume()
	for i := range creations {
		id := fmt.Sprintf("victim-%d", i)
		l.eventually("the file system answers, the ID is free", func() bool { return len(l.leftCgroups(id)) == 0 && !l.hasState(id) })
	}
	l.threadsAtHome()
	l.nothingMounted(mounts)
	l.eventually("no process is left", func() bool { return l.children() == "" })
	// It can be mounted now.
	l.run(l.request("late", l.idMapped("late", source)))
	if exit := l.finish("late"); exit.Code != 0 {
		t.Errorf("with a file system that answers again: code %d: %s", exit.Code, l.text("late", "stderr"))
	}
	l.threadsAtHome()
}

func (l *lab) hasState(id string) bool {
	_, err := os.Stat(filepath.Join(l.state, "shim", "containers", id))
	return err == nil
}

// An init that cannot look at the source of a mount asks the shim for it.
func TestMountWhoseFileSystemRefusesToBeLookedAt(t *testing.T) {
	l := newLab(t)
	dir := filepath.Join(l.state, "volume")
	f := l.fuse(dir, fusefs.Options{})
	refused := false
	f.When(func(r fusefs.Request) fusefs.Verdict {
		switch {
		case r.Op == fusefs.Getattr:
			refused = true
			return fusefs.Fail
		case r.Op == fusefs.Lookup && refused:
			return fusefs.Hang
		}
		return fusefs.Serve
	})
	spec := ofPod("victim", l.spec("victim", "true"))
	spec.Mounts = append(spec.Mounts, specs.Mount{
		Destination: "/v", Type: "bind", Source: filepath.Join(dir, fusefs.Folder), Options: []string{"rbind", "rprivate"},
	})
	created := l.creating(l.request("victim", spec))
	l.served(0)
	select {
	case err := <-created:
		if err != nil {
			t.Errorf("a mount that nobody has to look at: %v", err)
		}
	case <-time.After(servedLimit):
		t.Error("the shim looks at the source of a mount again")
	}
	l.threadsAtHome()
}

func TestPoststopHookOnARootFilesystemThatHangs(t *testing.T) {
	l := newLab(t)
	spec := ofPod("victim", l.spec("victim", "sh", "-c", "echo up; sleep 1000"))
	spec.Root.Path = l.ownRootfs("victim")
	hook := l.script("after", "true")
	hook.Timeout = time.Second
	r := l.withHooks("victim", spec, nil, []hookrun.Hook{hook})
	l.run(r)
	l.eventually("it is up", func() bool { return l.text("victim", "stdout") == "up\n" })
	f := l.fuse(spec.Root.Path, fusefs.Options{})
	f.HangOn(fusefs.Access, fusefs.Lookup)
	l.kill("victim")
	l.awaitHang(f, fusefs.Any)
	for round := range 3 {
		l.served(round)
	}
	if err := f.Abort(); err != nil {
		t.Fatal(err)
	}
	l.finish("victim")
	l.eventually("nothing is left of the hook", func() bool { return !l.hasState("victim.poststop") })
	if results := l.results(r); len(results) != 1 || results[0].Outcome == hookrun.Succeeded {
		t.Errorf("results %+v", results)
	}
	l.threadsAtHome()
}

// A mount of a poststop hook's container that hangs is named by the hook's result.
func TestPoststopHookWithAMountThatHangs(t *testing.T) {
	l := newLab(t)
	dir := filepath.Join(l.state, "volume")
	f := l.fuse(dir, fusefs.Options{})
	source := filepath.Join(dir, fusefs.Folder)
	spec := ofPod("victim", l.spec("victim", "sh", "-c", "echo up; sleep 1000"))
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/v", Type: "bind", Source: source, Options: []string{"rbind", "rprivate"}})
	hook := l.script("after", "true")
	hook.Timeout = time.Second
	r := l.withHooks("victim", spec, nil, []hookrun.Hook{hook})
	l.run(r)
	l.eventually("it is up", func() bool { return l.text("victim", "stdout") == "up\n" })
	f.HangOn(fusefs.Lookup)
	l.kill("victim")
	l.awaitHang(f, fusefs.Lookup)
	l.served(0)
	l.wait("victim")
	if results := l.results(r); len(results) != 1 || results[0].Outcome != hookrun.TimedOut || !strings.Contains(results[0].Message, source) {
		t.Errorf("results %+v", results)
	}
	f.Resume()
	l.finish("victim")
	l.eventually("nothing is left of the hook", func() bool { return !l.hasState("victim.poststop") })
	l.threadsAtHome()
}

// Who deletes a container that is being created does not wait for what its creation waits for.
func TestACreationThatIsCancelled(t *testing.T) {
	t.Run("with a mount that hangs", func(t *testing.T) {
		l := newLab(t)
		dir := filepath.Join(l.state, "volume")
		f := l.fuse(dir, fusefs.Options{})
		f.HangOn(fusefs.Lookup)
		spec := ofPod("victim", l.spec("victim", "true"))
		spec.Mounts = append(spec.Mounts, specs.Mount{
			Destination: "/v", Type: "bind", Source: filepath.Join(dir, fusefs.Folder), Options: []string{"rbind", "rprivate"},
		})
		request := l.request("victim", spec)
		created := l.creating(request)
		l.awaitHang(f, fusefs.Lookup)
		l.cancelled(created, "victim")
		if _, err := l.client.Create(l.ctx, request); !errdefs.IsAlreadyExists(err) {
			t.Errorf("a creation beside one that has not come back: %v", err)
		}
		if _, err := os.Stat(filepath.Join(request.Bundle, task.CreatedMark)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("it is marked as one whose program may have run: %v", err)
		}
		f.Resume()
		l.eventually("the file system answers, the ID is free", func() bool { return !l.hasState("victim") })
		l.run(request)
		l.finish("victim")
		l.threadsAtHome()
	})
	t.Run("with a hook of the node that does not end", func(t *testing.T) {
		l := newLab(t)
		begun := filepath.Join(l.state, "begun")
		spec := ofPod("victim", l.spec("victim", "true"))
		spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "touch " + begun + "; sleep 1000"}}}}
		created := l.creating(l.request("victim", spec))
		l.eventually("the hook runs", func() bool { _, err := os.Stat(begun); return err == nil })
		l.cancelled(created, "victim")
		l.gone("victim")
		l.eventually("no process is left", func() bool { return l.children() == "" })
	})
}

// cancelled deletes a container that is being created, and fails the test unless that ends its creation.
func (l *lab) cancelled(created <-chan error, id string) {
	l.t.Helper()
	if _, err := l.client.Delete(l.ctx, id); !errdefs.IsFailedPrecondition(err) {
		l.t.Errorf("deletion of a container that is being created: %v", err)
	}
	select {
	case err := <-created:
		if !errdefs.IsAborted(err) {
			l.t.Errorf("a creation that was cancelled: %v", err)
		}
	case <-time.After(servedLimit):
		l.t.Fatal("the creation goes on")
	}
	if _, err := l.client.State(l.ctx, id); !errdefs.IsNotFound(err) {
		l.t.Errorf("the state of a container whose creation was cancelled: %v", err)
	}
}
