// Package richcontainer decides whether a container is a rich one, with an init as pid 1 that runs the application as one of
// its services, and makes of a plain container's specification a rich one's: the files that init and launcher read, the
// mounts, pid 1's command line. It starts nothing, and of an image's root filesystem it reads what the kernel resolves inside
// of it, without writing to it.
package richcontainer

import (
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-pouch/cri-pouch/internal/richrun"
)

// Mode says which init a container has.
type Mode string

// The modes. None is a plain container whose program is pid 1 itself.
const (
	None     Mode = "none"
	Systemd  Mode = "systemd"
	SbinInit Mode = "sbin-init"
	DumbInit Mode = "dumb-init"
)

// Modes are all of them, as users write them.
func Modes() []string {
	return []string{string(Systemd), string(SbinInit), string(DumbInit), string(None)}
}

// Node is what the node's administrator has settled.
type Node struct {
	// PouchInit gives the containers their pouch-init.
	PouchInit PouchInit
	CgroupV2  bool
	// SystemdHierarchy is where the hierarchy name=systemd of cgroup v1 is mounted; empty: nowhere.
	SystemdHierarchy string
	// Unified is where the hierarchy of cgroup v2 is mounted, also where controllers are those of v1; empty: nowhere.
	Unified string
	// OpenFiles is RLIMIT_NOFILE of a container that asks for none; nil: it is not known. An init may have another for its services.
	OpenFiles *specs.POSIXRlimit
	// Handlers gives modes to runtime handlers by name.
	Handlers map[string]Mode
	// RootNamespaces and RootHandlers may run an init as root where CRI asks for another user or for no_new_privs.
	RootNamespaces, RootHandlers []string
	// ComponentsDir has a file for each component; empty: there are none.
	ComponentsDir string
}

// PouchInit is what this package needs of package pouchinit.
type PouchInit interface {
	// Seal gives the path on the host of a pouch-init for the container with this bundle alone,
	// which nothing inside can overwrite.
	Seal(bundle string) (path string, err error)
}

// IDMapping maps Length IDs from ContainerID on to HostID on.
type IDMapping struct{ ContainerID, HostID, Length uint32 }

// Request is what Prepare works on.
type Request struct {
	Choice    Choice
	Container string // its name
	Namespace string // of the pod
	Handler   string // the pod's runtime handler
	PodUID    string
	Bundle    string // folder of the container on the host, which Prepare makes
	Rootfs    string // where the root filesystem is mounted on the host
	// Spec is the plain container's specification, which Prepare edits.
	Spec *specs.Spec
	// UIDs and GIDs are the mappings of the pod's user namespace; empty: the node's.
	UIDs, GIDs []IDMapping
	Stdin      bool // the container has a standard input
	// StopSignal is the plain container's ("SIGTERM").
	StopSignal string
}

// SignalFor gives the stop signal for the application. Images that are made for systemd name its shutdown signal, which would
// only kill the application without a chance to end well.
func (m Mode) SignalFor(asked string) string {
	if m != Systemd && m != SbinInit {
		return asked
	}
	switch asked {
	case "SIGRTMIN+3", "RTMIN+3", "37", "SIGPWR":
		return "SIGTERM"
	}
	return asked
}

// Prepared is what Prepare settled.
type Prepared struct {
	// Process is the application's; the specification has the init's.
	Process    *specs.Process
	StopSignal string // for the application
	Init       string // path of the init in the container
}

// Choice is the mode of a container, who chose it, and what the pod says of it.
type Choice struct {
	Mode    Mode
	By      string // "annotation rich.cri-pouch.io/mode", for messages
	Options Options
}

// Rich says whether there is an init.
func (c Choice) Rich() bool { return c.Mode != None && c.Mode != "" }

// refuse says why the mode is impossible; the error names who chose it.
func (c Choice) refuse(class error, format string, args ...any) error {
	return fmt.Errorf("%s mode (%s): %w: %w", c.Mode, c.By, fmt.Errorf(format, args...), class)
}

// Prepare makes the container a rich one: it edits r.Spec and makes files below r.Bundle. Errors are InvalidArgument where pod
// or image are at fault, PermissionDenied where pid 1 must not be root, FailedPrecondition and NotImplemented where the node
// lacks something; each names who chose the mode, what was looked for, and the fix.
func (n Node) Prepare(r Request) (Prepared, error) {
	image, err := openImage(r.Rootfs, r.Spec.Mounts)
	if err != nil {
		return Prepared{}, err
	}
	defer image.close()
	if err := ownPIDs(r); err != nil {
		return Prepared{}, err
	}
	switch r.Choice.Mode {
	case DumbInit:
		return n.dumbInit(r, image)
	case Systemd:
		return n.systemd(r, image)
	case SbinInit:
		return n.sbinInit(r, image)
	}
	return Prepared{}, fmt.Errorf("mode %q of container %q is none: %w", r.Choice.Mode, r.Container, errdefs.ErrInternal)
}

// ownPIDs insists that the init will be pid 1.
func ownPIDs(r Request) error {
	for _, ns := range r.Spec.Linux.Namespaces {
		if ns.Type == specs.PIDNamespace && ns.Path == "" {
			return nil
		}
	}
	return r.Choice.refuse(errdefs.ErrInvalidArgument,
		"the container would share its pid namespace and so have no pid 1 of its own: remove shareProcessNamespace or hostPID from the pod, or annotate it with %s.%s: %s",
		modeKey, r.Container, None)
}

// Options are what a pod's annotations say of a rich container.
type Options struct {
	Restart         richrun.Restart
	RestartLimit    uint
	RestartInterval time.Duration
	ShutdownTimeout time.Duration
	After           []string // units of systemd that come before the application
	WatchUnits      []string // units whose failure ends the container
	UnitsFrom       string   // folder in the container with units to enable
	Components      []string // of the administrator's
}

func list(of []string) string { return strings.Join(of, ", ") }
