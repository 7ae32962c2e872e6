package shim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-pouch/cri-pouch/internal/cgrouptree"
	"github.com/cri-pouch/cri-pouch/internal/crash"
	"github.com/cri-pouch/cri-pouch/internal/crilog"
	"github.com/cri-pouch/cri-pouch/internal/hookrun"
	"github.com/cri-pouch/cri-pouch/internal/shimstate"
	shimapi "github.com/cri-pouch/cri-pouch/shim/api/v1"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

// create makes a container from its bundle and leaves it before its execve. It goes on when the caller gives up.
func (s *Server) create(ctx context.Context, id, bundle string, terminal bool, o *shimapi.CreateOptions) (int, error) {
	if err := shimstate.CheckID(id); err != nil {
		return 0, err
	}
	c := newContainer(s, id, bundle)
	c.options, c.terminal, c.startBy = o, terminal, time.Now().Add(hookrun.StartLimit)
	spec, err := readSpec(bundle)
	if err != nil {
		return 0, fmt.Errorf("create container %s: %w", id, err)
	}
	if err := s.reserve(c); err != nil {
		return 0, err
	}
	c.pod = podOf(spec)
	c.audience.pod = c.pod
	waiting, cancel := c.whileAlive(ctx)
	defer cancel()
	if c.slot, err = s.slots.acquire(waiting, c.pod); err != nil {
		s.forget(c)
		return 0, fmt.Errorf("create container %s: %w", id, err)
	}
	after, err := c.build(spec)
	c.slot.release(after)
	if err != nil {
		return 0, err
	}
	c.log.WithField("pid", c.init.pid).Debug("created")
	return c.init.pid, nil
}

// podOf names the pod that a container belongs to: a pod's containers share its slots.
func podOf(spec *specs.Spec) string {
	if id := spec.Annotations[task.PodAnnotation]; id != "" {
		return id
	}
	if slice, _, ok := strings.Cut(spec.Linux.CgroupsPath, ":"); ok {
		return slice
	}
	return filepath.Dir(filepath.Clean(spec.Linux.CgroupsPath))
}

// over is closed: what tells of the end of a launch that did not begin.
func over() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// build does the work of create. When it fails, nothing is left, or will be left once after is closed.
func (c *container) build(spec *specs.Spec) (after <-chan struct{}, err error) {
	for _, ns := range spec.Linux.Namespaces {
		switch ns.Type {
		case specs.PIDNamespace:
			c.privatePID = ns.Path == ""
		case specs.UserNamespace:
			c.userns = true
		}
	}
	c.s.host.fit(spec.Process, c.userns)
	config, err := c.config(spec)
	if err == nil {
		c.rich, err = newRich(c)
	}
	if err == nil {
		c.hooks, err = newHooks(c, spec)
	}
	if err == nil {
		c.node, err = newNodeHooks(c, spec)
	}
	if err == nil {
		err = c.prepare()
	}
	if err != nil {
		c.s.forget(c)
		return over(), fmt.Errorf("create container %s: %w", c.id, err)
	}
	c.node.install(config)
	after, err = c.s.launch(c.alive, createLimit+c.node.extra(), "creation", c.killLate, func(l *launch) error {
		return c.launch(l, config, spec.Process)
	})
	err = c.node.own(err)
	switch {
	case err == nil && c.alive.Err() == nil:
		crash.Go(c.log, "watch a container", c.watch)
		return after, nil
	case err == nil:
		err = context.Cause(c.alive)
		c.undoLate()
	case isOver(after):
		c.undo()
	default: // it hangs in the kernel: the ID stays taken until it comes back
		if errors.Is(err, errIdle) {
			c.setIdle()
		}
		crash.Go(c.log, "undo a creation that hangs", func() {
			<-after
			c.undoLate()
		})
	}
	return after, fmt.Errorf("create container %s: %w", c.id, explain(err))
}

// setIdle notes that nothing is left of a creation that was given up but what waits for a file system.
func (c *container) setIdle() {
	if err := c.unmark(); err != nil { // clear tries it again
		c.log.WithError(err).Warn("cannot remove the mark of a container that was not created")
	}
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.idle = true
}

// config translates the specification and finds out which cgroups it will have.
func (c *container) config(spec *specs.Spec) (*configs.Config, error) {
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{
		CgroupName: c.id, UseSystemdCgroup: c.options.GetSystemdCgroup(), Spec: spec,
	})
	if err != nil {
		return nil, fmt.Errorf("specification: %w (%w)", err, errdefs.ErrInvalidArgument)
	}
	// libcontainer takes the working directory for the bundle; hooks are told of it.
	for i, l := range config.Labels {
		if strings.HasPrefix(l, "bundle=") {
			config.Labels[i] = "bundle=" + c.bundle
		}
	}
	cgroup, err := manager.New(config.Cgroups)
	if err != nil {
		return nil, fmt.Errorf("cgroup: %w", err)
	}
	c.tree = cgrouptree.Tree(cgroup.GetPaths())
	return config, nil
}

// prepare makes the container's folder; its record is there before the first process, so that whoever finds a dead
// shim can end them.
func (c *container) prepare() error {
	dir := c.s.dir.Container(c.id)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("make state folder: %w", err)
	}
	err := c.s.dir.Write(shimstate.Record{ID: c.id, CgroupPaths: c.tree, Hook: c.ofHook})
	if err == nil && !c.ofHook {
		err = os.WriteFile(c.mark(), nil, 0o600)
	}
	if err != nil {
		_ = os.RemoveAll(dir)
		return err
	}
	return nil
}

func (c *container) mark() string { return filepath.Join(c.bundle, task.CreatedMark) }

// unmark removes the mark of a container whose program never ran.
func (c *container) unmark() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ofHook || !c.startedAt.IsZero() {
		return nil
	}
	if err := os.Remove(c.mark()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// launch makes the init.
func (c *container) launch(l *launch, config *configs.Config, spec *specs.Process) error {
	lp, err := newProcess(spec)
	if err != nil {
		return err
	}
	lp.Init = true
	// The log's file is opened at Start; the streams need to know only where it will be.
	if c.logFile, err = crilog.New(c.options.GetLogPath(), func(err error) { c.log.WithError(err).Error("log") }); err != nil {
		return err
	}
	standIn, err := c.delegate(config)
	if err != nil {
		return err
	}
	defer standIn.end()
	if c.lc, err = c.createObject(l, config); err != nil {
		return err
	}
	io, theirs, err := c.stdio(lp)
	if err != nil {
		return err
	}
	err = c.startInit(l, config, lp)
	theirs.close()
	if err == nil {
		if tty, ok := io.(interface{ receive() error }); ok {
			err = tty.receive()
		}
	}
	if err == nil {
		err = c.handOver()
	}
	var init *process
	if err == nil {
		init, err = adopt(lp, io)
	}
	if err != nil {
		io.close()
		c.reap(lp)
		return err
	}
	if err := c.s.dir.Write(shimstate.Record{ID: c.id, CgroupPaths: c.tree, Pid: init.pid, StartTime: init.startTime}); err != nil {
		io.close()
		c.reap(lp)
		return err
	}
	l.adopted(init)
	c.s.mu.Lock()
	c.init = init
	c.s.mu.Unlock()
	return nil
}

// closable are streams that can be let go without a process.
type closable interface {
	streams
	close()
}

func (c *container) stdio(lp *libcontainer.Process) (closable, *childFiles, error) {
	if c.rich != nil {
		return asClosable(newRichStreams(c, lp))
	}
	if !c.terminal {
		return asClosable(newFIFOs(c.s.dir.Container(c.id), c.options.GetStdin(), c.logFile, &c.audience, lp))
	}
	tty, theirs, err := newConsole(lp)
	if err != nil {
		return nil, nil, err
	}
	c.audience.pace = true
	tty.logTo(c.logFile, &c.audience, c.options.GetStdin())
	return tty, theirs, nil
}

func asClosable[S closable](s S, theirs *childFiles, err error) (closable, *childFiles, error) {
	return s, theirs, err
}

// reap ends an init that libcontainer has made and the shim cannot use.
func (c *container) reap(lp *libcontainer.Process) {
	if _, err := lp.Pid(); err != nil {
		return // there is none
	}
	_ = lp.Signal(os.Kill)
	_, _ = lp.Wait()
}

// killLate ends what a creation that takes too long has made so far; libcontainer then comes back with an error.
func (c *container) killLate() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = c.tree.Kill(ctx)
}

// dismantle ends and removes a container that nobody knows of, or what there is of it.
func (c *container) dismantle() error {
	ctx, cancel := context.WithTimeout(context.Background(), killLimit)
	defer cancel()
	err := c.tree.Kill(ctx)
	if c.lc != nil {
		err = errors.Join(err, c.lc.Destroy())
	}
	return errors.Join(err, c.outer.remove(), c.tree.Remove(ctx), c.s.clear(c))
}

// undo removes what a failed creation left.
func (c *container) undo() {
	if err := c.dismantle(); err != nil {
		c.log.WithError(err).Error("a failed creation left something behind")
	}
	// libcontainer closes its descriptor of exec.fifo only when a start succeeds, and keeps it to itself: the collector
	// closes it, which would not run by itself for a long time.
	c.lc = nil
	runtime.GC()
}

// undoLate removes what a creation left, or has made, that came back after it was given up.
func (c *container) undoLate() {
	if c.init == nil {
		c.undo()
		return
	}
	crash.Go(c.log, "watch a container", c.watch)
	if err := c.destroyByForce(context.Background()); err != nil {
		c.log.WithError(err).Error("a creation that was given up left something behind")
	}
}

// clear removes the container's folders, which is the end of it for the node's hooks, and frees its ID.
func (s *Server) clear(c *container) error {
	err := errors.Join(os.RemoveAll(s.dir.Container(c.id)), os.RemoveAll(filepath.Join(s.dir.Libcontainer(), c.id)), c.unmark())
	if c.lc != nil {
		c.node.poststop()
	}
	s.forget(c)
	if err != nil {
		return fmt.Errorf("remove state of container %s: %w", c.id, err)
	}
	return nil
}

// unrunnable is how os/exec, inside runc's init, says that it cannot run a program. The name is quoted.
var unrunnable = regexp.MustCompile(`exec: ("(?:[^"\\]|\\.)*"): (executable file not found in \$PATH|[^;]*no such file or directory|[^;]*permission denied|[^;]*is a directory)`)

// explain turns libcontainer's account of a program that cannot be run into one sentence that names it.
func explain(err error) error {
	if m := unrunnable.FindStringSubmatch(err.Error()); m != nil {
		return fmt.Errorf("program %s cannot be run: %s: %w", m[1], m[2], errdefs.ErrInvalidArgument)
	}
	return err
}
