package hookrun

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-pouch/cri-pouch/internal/atomicfile"
)

// Stage says when a hook runs.
type Stage string

// Prestart hooks run in the created container, before its program. Poststop hooks run after the container's last process
// has ended, in a fresh container on the same root filesystem, mounts and network.
const (
	Prestart Stage = "prestart"
	Poststop Stage = "poststop"
)

// How long a container's hooks may take, those of one stage together, with all that launching them takes. The report of the end
// waits for the poststop hooks.
const (
	PrestartLimit = 90 * time.Second
	PoststopLimit = 60 * time.Second
)

// StartLimit is when, counted from the beginning of a container's creation, the hooks of its start have to be done: prestart hooks
// and those of the node. The kubelet gives a start two minutes; the rest is for creating the container and for ending a hook.
const StartLimit = 105 * time.Second

// Hook is one program to run, ready to be run.
type Hook struct {
	Name string `json:"name"`
	// Process has everything: arguments, environment, directory, user, capabilities, limits. Its arguments are the hook's own:
	// who runs it puts Launcher before them. The environment of a poststop hook lacks what is known only at the end.
	Process *specs.Process `json:"process"`
	Timeout time.Duration  `json:"timeout"`
	// Ignore says that a failure or timeout of this hook changes nothing for the container. It is reported all the same.
	Ignore bool `json:"ignore,omitempty"`
	// Log says that what the hook writes goes to the container's log too, each line with the hook's name before it.
	Log bool `json:"log,omitempty"`
}

// Plan is what the shim runs, each list in its order. A prestart hook that fails without Ignore ends the list and the
// start; poststop hooks run all, whatever became of those before.
type Plan struct {
	Prestart []Hook `json:"prestart,omitempty"`
	Poststop []Hook `json:"poststop,omitempty"`
	// PoststopSpec is the container that the poststop hooks run in: the hook's process takes the place of its own. Its
	// linux.cgroupsPath is not the container's.
	PoststopSpec *specs.Spec `json:"poststopSpec,omitempty"`
}

// planMax bounds the file.
const planMax = 8 << 20

// Write puts the plan into a bundle, at once or not at all, and makes the folder for it.
func (p Plan) Write(bundle string) error {
	text, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode the plan of hooks: %w", err)
	}
	dir := filepath.Join(bundle, Dir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the folder of hooks: %w", err)
	}
	return atomicfile.Write(filepath.Join(dir, PlanFile), text)
}

// ReadPlan reads a bundle's plan. os.ErrNotExist: the container has no hooks.
func ReadPlan(bundle string) (Plan, error) {
	var p Plan
	return p, read(filepath.Join(bundle, Dir, PlanFile), planMax, &p)
}

// read decodes a file of at most limit bytes.
func read(path string, limit int64, into any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if int64(len(text)) > limit {
		return fmt.Errorf("%s has more than %d bytes: %w", path, limit, errdefs.ErrInvalidArgument)
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("decode %s: %w (%w)", path, err, errdefs.ErrInvalidArgument)
	}
	return nil
}
