// Package wholefile writes files on tmpfs so that whoever reads them at the same time sees the old one or the new one.
package wholefile

import (
	"fmt"
	"os"
)

// Write replaces the file at path, mode 0600. It has one writer at a time. tmpfs is not durable, so a rename is enough.
func Write(path string, content []byte) error {
	if err := os.WriteFile(path+".new", content, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
