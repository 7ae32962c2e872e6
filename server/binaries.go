package server

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/containerd/errdefs"
)

// findBinary gives the absolute path of a helper program: the configured one, else the one beside executable, else the
// one in $PATH. key is the setting that names it.
func findBinary(configured, name, key, executable string) (string, error) {
	candidate := configured
	if candidate == "" {
		candidate = filepath.Join(filepath.Dir(executable), name)
		if !isProgram(candidate) {
			found, err := exec.LookPath(name)
			if err != nil {
				return "", fmt.Errorf("%s is neither beside %s nor in $PATH: install it, or set %s: %w", name, executable, key, errdefs.ErrNotFound)
			}
			candidate = found
		}
	}
	if !isProgram(candidate) {
		return "", fmt.Errorf("%s is %s, which is no executable file: %w", key, candidate, errdefs.ErrNotFound)
	}
	return filepath.Abs(candidate)
}

func isProgram(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}
