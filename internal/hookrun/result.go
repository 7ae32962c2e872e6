package hookrun

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/cri-pouch/cri-pouch/internal/atomicfile"
)

// Outcome is what became of a hook.
type Outcome string

// The outcomes.
const (
	Succeeded Outcome = "succeeded" // exit code 0
	Failed    Outcome = "failed"    // another exit code, a signal, or it could not be started
	TimedOut  Outcome = "timeout"   // it was killed with all that it had started
	Skipped   Outcome = "skipped"   // it was not run: Message says why
)

// OutputMax bounds what is kept of a hook's output: its last bytes.
const OutputMax = 4 << 10

// Result is what became of one hook.
type Result struct {
	Stage   Stage   `json:"stage"`
	Name    string  `json:"name"`
	Outcome Outcome `json:"outcome"`
	// Ignored is the hook's Ignore.
	Ignored bool `json:"ignored,omitempty"`
	// ExitCode is the command's, 128+n for signal n; 0 for one that was skipped.
	ExitCode  int           `json:"exitCode"`
	StartedAt time.Time     `json:"startedAt,omitzero"`
	Duration  time.Duration `json:"duration,omitempty"` // of one that ran into its timeout: that
	// Output is the end of what it wrote to stdout and stderr, valid UTF-8, at most OutputMax bytes.
	Output string `json:"output,omitempty"`
	// Message says in words why it did not succeed, where exit code and outcome do not.
	Message string `json:"message,omitempty"`
}

// resultsMax bounds the file: more than the greatest number of hooks can write.
const resultsMax = 4 << 20

// WriteResults replaces a bundle's results. Whoever reads at the same time sees the old ones or the new ones.
func WriteResults(bundle string, results []Result) error {
	return writeResults(bundle, ResultsFile, results)
}

func writeResults(bundle, name string, results []Result) error {
	text, err := json.Marshal(results)
	if err != nil {
		return fmt.Errorf("encode the results of hooks: %w", err)
	}
	return atomicfile.Write(filepath.Join(bundle, Dir, name), text)
}

// ReadResults reads a bundle's results so far, in the order in which the hooks ran; none where none has run.
func ReadResults(bundle string) ([]Result, error) {
	var r []Result
	if err := read(filepath.Join(bundle, Dir, ResultsFile), resultsMax, &r); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return r, nil
}
