// Package task is the seam between those who want containers run (package cri) and those who run them
// (the shim, reached through shim/client; later other shims). It holds types and one interface, no code.
package task

import (
	"context"
	"time"
)

// Runtime runs containers. Every method is safe for concurrent use. Errors wrap a class of errdefs: NotFound for
// an unknown ID, AlreadyExists for a second Create, FailedPrecondition for a wrong state, Unavailable while
// the shim is being replaced.
type Runtime interface {
	// Create makes a container from an OCI bundle and leaves it before its exec; it gives the init's pid.
	Create(ctx context.Context, r CreateRequest) (pid int, err error)
	// Start runs the created container's prestart hooks (internal/hookrun) and lets it run its program; it gives the start
	// time that List will report. A hook that fails is Aborted, the error names it, and the container is taken away,
	// or has ended where its program had begun. A program that cannot be executed is an error that names it.
	Start(ctx context.Context, id string) (startedAt time.Time, err error)
	// Kill sends a signal (number, signal(7)) to the container's init, or, with all, to every process of its cgroup. It does not
	// reach the poststop hooks of a container that is ending, and is no error then. Where pid 1 is a real init, any signal but
	// SIGKILL is for the application, which is not started again; with all the init then ends its other services too.
	Kill(ctx context.Context, id string, signal uint32, all bool) error
	// Delete removes an ended (or never started) container and gives its end. A start in progress ends, unless its program is
	// about to run: then, as for any that runs, it is FailedPrecondition.
	Delete(ctx context.Context, id string) (Exit, error)
	// Wait blocks until the container's init (execID "") or the exec'd process has ended and its log is complete, and the
	// container's poststop hooks are done.
	Wait(ctx context.Context, id, execID string) (Exit, error)
	// List gives every container that the shim holds, also ended ones that are not deleted yet.
	List(ctx context.Context) ([]Info, error)
	// State gives one container.
	State(ctx context.Context, id string) (Info, error)
	// Pids gives the host pids of the container's processes.
	Pids(ctx context.Context, id string) ([]uint32, error)

	// Exec starts a further process in a running container. Its streams are FIFOs that the caller made.
	Exec(ctx context.Context, r ExecRequest) (pid int, err error)
	// KillExec sends a signal to an exec'd process and, with all, to the process group it leads.
	KillExec(ctx context.Context, id, execID string, signal uint32, all bool) error
	// DeleteExec forgets an ended exec'd process.
	DeleteExec(ctx context.Context, id, execID string) error
	// Attach connects the caller's FIFOs with a running container's stdio; it returns when they are connected. wait blocks
	// until the attachment ends: nil when the container has ended and all its output stands in the FIFOs,
	// ResourceExhausted when the caller reads too slowly, Unavailable when the shim died. The caller detaches by closing
	// its reading end of stdout.
	Attach(ctx context.Context, r AttachRequest) (wait func() error, err error)
	// ResizePty sets the terminal's size in cells.
	ResizePty(ctx context.Context, id, execID string, width, height uint32) error
	// CloseIO closes the stdin of a container (execID "") or of an exec'd process.
	CloseIO(ctx context.Context, id, execID string) error

	// Pause and Resume freeze and thaw all processes of a container.
	Pause(ctx context.Context, id string) error
	Resume(ctx context.Context, id string) error
	// Update changes the limits of a running container: resources is the JSON of OCI's LinuxResources.
	Update(ctx context.Context, id string, resources []byte) error
	// Stats reads the container's cgroups.
	Stats(ctx context.Context, id string) (Stats, error)

	// ReopenLog makes the shim write to a new file at the container's log path (after a rotation).
	ReopenLog(ctx context.Context, id string) error

	// Events delivers what happens from the call on. The channel is closed when the connection to the shim breaks or
	// ctx ends: the caller then lists again. A subscriber that subscribes first and lists afterwards misses nothing.
	Events(ctx context.Context) (<-chan Event, error)
}

// CreatedMark is a file in the bundle of a container that has been created and whose program may have run. The shim makes it
// before the first process and removes it with a container whose program did not run. Where it is and the container is not, the
// shim has died.
const CreatedMark = "created"

// PodAnnotation is an annotation of the OCI specification that names the pod of a container; nothing of the pod's author's is in
// it. Who runs containers bounds what one pod may have under way at once.
const PodAnnotation = "io.kubernetes.cri.sandbox-id"

// CreateRequest says what to create.
type CreateRequest struct {
	ID     string // unique on the node
	Bundle string // folder with config.json (OCI runtime spec); root.path in it is absolute and mounted
	// LogPath is the CRI log file; empty: output is read and dropped. It is opened at Start (created 0640, O_NOFOLLOW).
	LogPath   string
	Terminal  bool
	Stdin     bool // the container has an open stdin; else /dev/null
	StdinOnce bool
	// SystemdCgroup says that linux.cgroupsPath has the form slice:prefix:name.
	SystemdCgroup bool
}

// ExecRequest says what to run in a container.
type ExecRequest struct {
	ID, ExecID string
	// Process is the JSON of OCI's Process.
	Process []byte
	// Stdin, Stdout, Stderr are FIFO paths, or empty. With Terminal, Stderr is ignored.
	Stdin, Stdout, Stderr string
	Terminal              bool
}

// AttachRequest says what to connect with a container's stdio.
type AttachRequest struct {
	ID string
	// Stdin, Stdout, Stderr are FIFO paths; the caller has opened its ends. Stdout must be given; Stdin may be empty, Stderr too
	// and has to be with a terminal.
	Stdin, Stdout, Stderr string
}

// Status is the state of a container in the shim.
type Status string

// The states; Stopped containers wait for Delete.
const (
	Created Status = "created"
	Running Status = "running"
	Paused  Status = "paused"
	Stopped Status = "stopped"
)

// Info is what the shim knows of a container.
type Info struct {
	ID        string
	Pid       int
	Status    Status
	StartedAt time.Time // zero before Start
	Exit      *Exit     // for Stopped
	// Starting says of a Created container that Start was called and its prestart hooks run: they go on without the caller.
	Starting bool
	// Ending says of a Running or Paused container that its program has ended and its poststop hooks run or are about to. Its end
	// is told when they are done; Pid is 0 from the first one on.
	Ending bool
}

// Exit is the end of a process.
type Exit struct {
	Code      uint32 // 128+n for a signal n
	ExitedAt  time.Time
	OOMKilled bool // the kernel's OOM killer ended a process of the container, init's end included
}

// EventType names an event.
type EventType string

// The events of the shim.
const (
	EventExit EventType = "exit" // a container's init ended, log complete, poststop hooks done
	EventOOM  EventType = "oom"  // the OOM killer struck in a container that goes on
	EventLost EventType = "lost" // the shim died and the container with it: its end is unknown, the shim has forgotten it
)

// Event is something that happened to a container.
type Event struct {
	Type EventType
	ID   string
	Exit *Exit // for EventExit
}
