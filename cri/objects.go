package cri

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/cri-pouch/cri-pouch/cri/model"
	"github.com/cri-pouch/cri-pouch/internal/flight"
	"github.com/cri-pouch/cri-pouch/network"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

// usersMax is the weight of exclusive use of a sandbox.
const usersMax = 1 << 30

// sandbox is a sandbox in memory: its record and what guards it.
type sandbox struct {
	id      string
	key     string // of its pod, see podKey
	created time.Time
	listed  atomic.Bool
	// use is held with weight 1 by each start of a container, with usersMax by who takes the sandbox down. Creations do not
	// hold it: they make no process, and one that hangs must not keep the sandbox.
	use *semaphore.Weighted
	// stopping refuses new work as soon as somebody wants to take the sandbox down.
	stopping atomic.Bool
	// life ends, with a cause, when somebody wants that. Who holds a socket in the pod's namespace lets go of it then.
	life    context.Context
	endLife context.CancelCauseFunc
	// disowned says that it is being removed and needs its pod's volumes no more; the index guards it.
	disowned     bool
	stop, remove flight.Flight
	// holding serialises the start of the pid namespace's holder.
	holding sync.Mutex
	// writing is held by who changes the durable record, so that no older one is written over a newer one. leaving, which
	// it guards, says that the record goes and must not be written any more.
	writing sync.Mutex
	leaving bool

	forwards atomic.Int32 // connections that PortForward carries
	cpu      cpuMeter

	mu  sync.Mutex
	rec model.Sandbox
}

func newSandbox(rec model.Sandbox) *sandbox {
	sb := &sandbox{id: rec.ID, key: podKey(rec.ID, rec.Config), created: rec.CreatedAt, rec: rec, use: semaphore.NewWeighted(usersMax)}
	sb.life, sb.endLife = context.WithCancelCause(context.Background())
	return sb
}

func (sb *sandbox) isListed() bool       { return sb.listed.Load() }
func (sb *sandbox) createdAt() time.Time { return sb.created }

// record is a copy of the record; its maps and slices are never written to.
func (sb *sandbox) record() model.Sandbox {
	sb.mu.Lock()
	defer sb.mu.Unlock()
	return sb.rec
}

func (sb *sandbox) ready() bool {
	return sb.record().State == model.SandboxReady && !sb.stopping.Load()
}

// leave says that the record is about to go: no history is handed to it any more.
func (sb *sandbox) leave() {
	sb.writing.Lock()
	defer sb.writing.Unlock()
	sb.leaving = true
}

// pod is what package network knows of the sandbox.
func (sb *sandbox) pod() network.Pod {
	return networkPod(sb.record())
}

// container is a container in memory: its record and what cannot outlive a boot.
type container struct {
	id, sandboxID string
	created       time.Time
	listed        atomic.Bool
	// op is held by a start, a removal, and for a moment by a stop.
	op            *semaphore.Weighted
	start, remove flight.Flight

	mu        sync.Mutex
	rec       model.Container
	status    task.Status
	startedAt time.Time
	pid       int
	removing  bool
	// startError is why its start failed, where processes of it have not ended since.
	startError error

	cpu  cpuMeter
	disk diskMeter
	// looking is held by who reads what runs inside: a hostile container can make that wait, and then it is one that waits.
	looking *semaphore.Weighted

	// telling is held while the world is told of the container's start, which happens before it is told of the end.
	telling   sync.Mutex
	startTold bool
	hooksTold map[string]bool // by hookKey, the node's by nodeHookKey
	toldUntil time.Time       // what happened up to then may have been told by a former daemon

	// cut ends a start in progress that waits for something; dismissals are those who do not want one. mu guards them all.
	cut        context.CancelCauseFunc
	startOver  chan struct{} // closed when the start in progress is over
	creating   bool          // the shim is asked to create it
	dismissals int

	ended     chan struct{} // closed when rec.End is set
	cleaned   chan struct{} // closed when shim and mount let go of it
	finishing sync.Mutex    // held by who ends it
}

func newContainer(rec model.Container) *container {
	c := &container{
		id: rec.ID, sandboxID: rec.SandboxID, created: rec.CreatedAt, rec: rec, status: task.Created, op: semaphore.NewWeighted(1), looking: semaphore.NewWeighted(1),
		ended: make(chan struct{}), cleaned: make(chan struct{}),
	}
	if rec.End != nil {
		c.status, c.startedAt = task.Stopped, rec.End.StartedAt
		close(c.ended)
	}
	return c
}

func (c *container) isListed() bool       { return c.listed.Load() }
func (c *container) createdAt() time.Time { return c.created }

// view is a consistent copy of a container.
type view struct {
	rec        model.Container
	status     task.Status
	startedAt  time.Time
	pid        int
	removing   bool
	startError error
}

func (c *container) view() view {
	c.mu.Lock()
	defer c.mu.Unlock()
	return view{c.rec, c.status, c.startedAt, c.pid, c.removing, c.startError}
}

// awaitEnd waits until the container has ended, for at most limit (0: as long as ctx lasts), and says whether it did.
func (c *container) awaitEnd(ctx context.Context, limit time.Duration) (bool, error) {
	var late <-chan time.Time
	if limit > 0 {
		t := time.NewTimer(limit)
		defer t.Stop()
		late = t.C
	}
	select {
	case <-c.ended:
		return true, nil
	case <-late:
		return false, nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
}
