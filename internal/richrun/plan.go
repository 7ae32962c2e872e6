package richrun

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cri-pouch/cri-pouch/internal/atomicfile"
)

// Plan is what the shim must know of a rich container whose pid 1 is a real init. It stands as JSON
// in the bundle, where nobody inside gets at it: daemon and shim act on it as root. A container in
// dumb-init mode has none: for the shim it is a plain one.
type Plan struct {
	Mode string `json:"mode"`
	// Shutdown is the signal that makes pid 1 end its services (number, signal(7)).
	Shutdown int `json:"shutdown"`
	// KillWhenAlone says that pid 1 never ends by itself: it is killed once it is the last process.
	KillWhenAlone bool `json:"killWhenAlone,omitempty"`
	// ShutdownTimeout is how long the shutdown may take before everything is killed.
	ShutdownTimeout time.Duration `json:"shutdownTimeout"`
	// Delegate says that the container's processes live in a cgroup of their own below the one with the limits, which
	// belongs to Owner (host IDs).
	Delegate bool `json:"delegate,omitempty"`
	OwnerUID int  `json:"ownerUID,omitempty"`
	OwnerGID int  `json:"ownerGID,omitempty"`
	// AppUID is the application's user (host ID), to whom its terminal belongs.
	AppUID int `json:"appUID,omitempty"`
	// WatchUnits are units of the init whose failure ends the container.
	WatchUnits []string `json:"watchUnits,omitempty"`
	// Init is what pid 1 is: one of the constants below.
	Init string `json:"init,omitempty"`
	// Brought are the units that the image does not have.
	Brought []Brought `json:"brought,omitempty"`
}

// The inits.
const (
	InitSystemd  = "systemd"
	InitSysvinit = "sysvinit"
	InitBusybox  = "busybox"
)

// Brought is a unit that the pod or the administrator brings in.
type Brought struct {
	Unit      string `json:"unit"`                // under which systemd knows it, or under which its failure is recorded
	Component string `json:"component,omitempty"` // of the administrator; empty: the pod brings it
	Script    string `json:"script,omitempty"`    // path in the container, where the init has no units
}

// planMax bounds the file.
const planMax = 1 << 20

// Write puts the plan into a bundle, which is there already.
func (p Plan) Write(bundle string) error {
	text, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode plan: %w", err)
	}
	if err := atomicfile.Write(filepath.Join(bundle, PlanFile), text); err != nil {
		return fmt.Errorf("write plan: %w", err)
	}
	return nil
}

// ReadPlan reads a bundle's plan. os.ErrNotExist: the container is a plain one.
func ReadPlan(bundle string) (Plan, error) {
	f, err := os.Open(filepath.Join(bundle, PlanFile))
	if err != nil {
		return Plan{}, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, planMax))
	if err != nil {
		return Plan{}, fmt.Errorf("read plan: %w", err)
	}
	var p Plan
	if err := json.Unmarshal(text, &p); err != nil {
		return Plan{}, fmt.Errorf("plan of %s: %w (%w)", bundle, err, errdefs.ErrInvalidArgument)
	}
	return p, nil
}
