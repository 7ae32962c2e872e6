package hookrun

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-pouch/cri-pouch/internal/atomicfile"
)

// The stages of the node's hooks beside Prestart and Poststop, as the OCI runtime specification names them
// (config.md, POSIX-platform Hooks).
const (
	CreateRuntime   Stage = "createRuntime"
	CreateContainer Stage = "createContainer"
	StartContainer  Stage = "startContainer"
	Poststart       Stage = "poststart"
)

// The names of the node's hooks inside a bundle's Dir.
const (
	NodePlanFile    = "node.json"         // NodePlan
	NodeResultsFile = "node-results.json" // []Result
)

// NodeStartLimit bounds all hooks of the node together that hold up a container's start, NodeStopLimit those after its end.
// StartLimit, in which the container's own hooks have to fit too, is above both.
const (
	NodeStartLimit = 30 * time.Second
	NodeStopLimit  = 30 * time.Second
)

// NodePlan is what the shim has to know of the node's hooks beyond the OCI specification, where the hooks themselves stand.
type NodePlan struct {
	// Files are the names of the files that declare the hooks of each stage, in the order of the specification's lists.
	Files map[Stage][]string `json:"files"`
	// PouchInit is the path on the node of a pouch-init that nobody in the container can
	// overwrite (package pouchinit). It leads createContainer hooks into the container's
	// namespaces; empty where there are none.
	PouchInit string `json:"pouchInit"`
	// Annotations are the pod's and the container's, for the state that hooks get. They are not in the specification:
	// runtimes read settings from there.
	Annotations map[string]string `json:"annotations,omitempty"`
}

// Write puts the plan into a bundle and makes the folder for it.
func (p NodePlan) Write(bundle string) error {
	text, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode the plan of the node's hooks: %w", err)
	}
	dir := filepath.Join(bundle, Dir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the folder of hooks: %w", err)
	}
	if err := atomicfile.Write(filepath.Join(dir, NodePlanFile), text); err != nil {
		return fmt.Errorf("write the plan of the node's hooks: %w", err)
	}
	return nil
}

// ReadNodePlan reads a bundle's plan. os.ErrNotExist: no hook of the node concerns the container.
func ReadNodePlan(bundle string) (NodePlan, error) {
	var p NodePlan
	return p, read(filepath.Join(bundle, Dir, NodePlanFile), planMax, &p)
}

// WriteNodeResults replaces a bundle's results of the node's hooks. Whoever reads at the same time sees the old ones or the
// new ones.
func WriteNodeResults(bundle string, results []Result) error {
	return writeResults(bundle, NodeResultsFile, results)
}

// ReadNodeResults reads what has become of the node's hooks so far, in the order in which they ran.
func ReadNodeResults(bundle string) ([]Result, error) {
	var r []Result
	if err := read(filepath.Join(bundle, Dir, NodeResultsFile), resultsMax, &r); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return r, nil
}

// StageOf gives the list of a stage in an OCI specification; nil for what is no stage of it.
func StageOf(h *specs.Hooks, stage Stage) *[]specs.Hook {
	switch stage {
	case Prestart:
		//lint:ignore SA1019 deprecated, and part of the format all the same
		return &h.Prestart
	case CreateRuntime:
		return &h.CreateRuntime
	case CreateContainer:
		return &h.CreateContainer
	case StartContainer:
		return &h.StartContainer
	case Poststart:
		return &h.Poststart
	case Poststop:
		return &h.Poststop
	}
	return nil
}
