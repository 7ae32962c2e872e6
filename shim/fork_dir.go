package shim

import (
	"fmt"
	"reflect"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
)

// libcontainer forks each process in the container's root filesystem: the configuration's Rootfs is its exec.Cmd.Dir. Go forks as
// vfork does: between the fork and the execve the thread that forked can neither be stopped for a collection of garbage nor
// let another one fork. A root filesystem that does not answer chdir(2) would be the end of the shim for all containers. So
// Rootfs is another folder, one of the shim's own, while a process is forked. Nobody misses it: runc's init opens Rootfs
// itself, and further processes find their root in the container's mount namespace.

// startFurther starts a further process of a container, forked in dir.
func startFurther(dir string, lc *libcontainer.Container, lp *libcontainer.Process) error {
	config, err := configOf(lc)
	if err != nil {
		return err
	}
	defer replaceRootfs(config, dir)()
	return lc.Start(lp)
}

// startFirst starts the init of a container, forked in dir. As soon as it is forked, forked is called, on the same thread.
func startFirst(dir string, lc *libcontainer.Container, lp *libcontainer.Process, forked func() error) error {
	config, err := configOf(lc)
	if err != nil {
		return err
	}
	manager, err := managerOf(lc)
	if err != nil {
		return err
	}
	restore := replaceRootfs(config, dir)
	defer restore()
	// The manager's Apply is what libcontainer calls first after the fork; then it sends the configuration to the init. Were
	// that another way once, the init would find an empty folder for its root and fail.
	inner := *manager
	*manager = &forkObserver{Manager: inner, forked: func() error {
		restore()
		return forked()
	}}
	defer func() { *manager = inner }()
	return lc.Start(lp)
}

// replaceRootfs sets Rootfs to dir. restore sets it back, and can be repeated.
func replaceRootfs(config *configs.Config, dir string) (restore func()) {
	rootfs := config.Rootfs
	config.Rootfs = dir
	return func() { config.Rootfs = rootfs }
}

// forkObserver is a cgroup manager that is told of the fork of a container's init.
type forkObserver struct {
	cgroups.Manager
	forked func() error
}

func (o *forkObserver) Apply(pid int) error {
	if err := o.forked(); err != nil {
		return err
	}
	return o.Manager.Apply(pid)
}

func configOf(lc *libcontainer.Container) (*configs.Config, error) {
	config, err := fieldOf[*configs.Config](lc, "config")
	if err != nil {
		return nil, err
	}
	return *config, nil
}

func managerOf(lc *libcontainer.Container) (*cgroups.Manager, error) {
	return fieldOf[cgroups.Manager](lc, "cgroupManager")
}

// fieldOf gives a field that libcontainer keeps to itself and has no switch for.
func fieldOf[T any](lc *libcontainer.Container, name string) (*T, error) {
	field := reflect.ValueOf(lc).Elem().FieldByName(name)
	if !field.IsValid() || field.Type() != reflect.TypeFor[T]() {
		return nil, fmt.Errorf("this libcontainer has no %s of type %s where it is looked for: %w", name, reflect.TypeFor[T](), errdefs.ErrNotImplemented)
	}
	return (*T)(field.Addr().UnsafePointer()), nil
}
