package richrun

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cri-pouch/cri-pouch/internal/atomicfile"
)

// Progress is what the shim knows of a rich container that stands nowhere else: with plan and record it is all that another
// shim needs to go on, and the daemon to tell why the container ends. It is in the bundle, on tmpfs, and not seen inside.
type Progress struct {
	Stopped bool `json:"stopped,omitempty"` // by the client
	All     bool `json:"all,omitempty"`     // not the application alone
	// Because says why the init was told to shut down; empty: it was not.
	Because Because `json:"because,omitempty"`
	OOMRun  int     `json:"oomRun,omitempty"`  // number of the start that the OOM killer ended
	OOMSeen uint64  `json:"oomSeen,omitempty"` // kills in the container that did not end the application
}

// Because is a reason for the end of a rich container.
type Because string

// The reasons.
const (
	ApplicationEnded Because = "application" // for good
	UnitFailed       Because = "unit"        // a watched one
	LauncherLost     Because = "launcher"    // somebody inside has killed the one that runs the application
	StopAsked        Because = "stop"
)

const progressFile = "rich-progress.json"

// Write puts it into a bundle, whole or not at all.
func (p Progress) Write(bundle string) error {
	text, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode the progress of a rich container: %w", err)
	}
	return atomicfile.Write(filepath.Join(bundle, progressFile), text)
}

// ReadProgress reads a bundle's; nothing has been written: it is empty.
func ReadProgress(bundle string) (p Progress, err error) {
	text, err := os.ReadFile(filepath.Join(bundle, progressFile))
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return p, fmt.Errorf("read the progress of a rich container: %w", err)
	}
	if err := json.Unmarshal(text, &p); err != nil {
		return p, fmt.Errorf("progress of %s: %w", bundle, err)
	}
	return p, nil
}
