package hookrun

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/cri-pouch/cri-pouch/internal/atomicfile"
)

// End is how the container's program ended. The shim writes it before the first poststop hook begins: while these run the
// container is not reported as ended, and who has to wait for them finds it here. A start removes the one of a former try,
// and the results too.
type End struct {
	ExitCode   uint32    `json:"exitCode"` // 128+n for signal n
	OOMKilled  bool      `json:"oomKilled,omitempty"`
	StartedAt  time.Time `json:"startedAt"`
	FinishedAt time.Time `json:"finishedAt"`
}

// The reasons of an end, as the container's status has them and poststop hooks are told.
const (
	ReasonCompleted = "Completed"
	ReasonOOMKilled = "OOMKilled"
	ReasonError     = "Error"
)

// Reason says why a program with this exit code ended. One that ended well did so although the OOM killer took a process of it.
func Reason(code uint32, oomKilled bool) string {
	switch {
	case code == 0:
		return ReasonCompleted
	case oomKilled:
		return ReasonOOMKilled
	}
	return ReasonError
}

// endMax bounds the file.
const endMax = 4 << 10

// Write puts the end into a bundle, at once or not at all.
func (e End) Write(bundle string) error {
	text, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode the end for hooks: %w", err)
	}
	return atomicfile.Write(filepath.Join(bundle, Dir, EndFile), text)
}

// ReadEnd reads a bundle's end. os.ErrNotExist: the program has not ended, or the container has no poststop hooks.
func ReadEnd(bundle string) (End, error) {
	var e End
	return e, read(filepath.Join(bundle, Dir, EndFile), endMax, &e)
}

// Forget removes from a bundle what became of a former try: its results and its end.
func Forget(bundle string) error {
	for _, name := range []string{ResultsFile, EndFile} {
		if err := os.Remove(filepath.Join(bundle, Dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("forget the hooks of a former try: %w", err)
		}
	}
	return nil
}
