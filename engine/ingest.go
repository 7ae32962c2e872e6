package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// sweepIngests removes the unfinished transfers below dir that a killed process left without what is needed to go on:
// killed while the folder was being made, or between the blob's rename and the folder's removal. The content store can
// neither resume nor list them, and one of them stops each collection.
func sweepIngests(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for unfinished transfers: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if resumable(path) {
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("remove the unfinished transfer %s: %w", path, err)
		}
	}
	return nil
}

// resumable says whether an unfinished transfer has its data, its name and its times.
func resumable(path string) bool {
	for _, name := range []string{"data", "ref"} {
		if _, err := os.Lstat(filepath.Join(path, name)); err != nil {
			return false
		}
	}
	for _, name := range []string{"startedat", "updatedat"} {
		b, err := os.ReadFile(filepath.Join(path, name))
		if err != nil || new(time.Time).UnmarshalText(b) != nil {
			return false
		}
	}
	return true
}
