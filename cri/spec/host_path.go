package spec

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
)

// source resolves the links of a host path (CRI Mount.host_path: "follow the symlink and mount the real destination"). An
// absent path is made a folder, or refused where the node's administrator wants that.
func (b *Builder) source(p string) (string, error) {
	resolved, err := filepath.EvalSymlinks(p)
	if errors.Is(err, fs.ErrNotExist) {
		if !b.node.CreateMissingHostPaths {
			return "", fmt.Errorf("the host path does not exist, create it first, or let the node make it (runtime.create_missing_host_paths): %w",
				errdefs.ErrFailedPrecondition)
		}
		if err := makeHostPath(p); err != nil {
			return "", err
		}
		resolved, err = filepath.EvalSymlinks(p)
	}
	if err != nil {
		return "", fmt.Errorf("resolve the host path: %w: %w", err, errdefs.ErrFailedPrecondition)
	}
	return resolved, nil
}

// makeHostPath makes the folders of a path that are not there, with mode 0755 under the daemon's umask. A link that leads
// nowhere is not followed: mkdir(2) makes nothing in its place.
func makeHostPath(p string) error {
	err := os.MkdirAll(p, 0o755)
	if err == nil {
		return nil
	}
	if link := danglingLink(p); link != "" {
		return fmt.Errorf("the host path does not exist, %s is a link that leads nowhere, mend it or remove it: %w", link, errdefs.ErrFailedPrecondition)
	}
	return fmt.Errorf("the host path does not exist and cannot be made: %w: %w", err, errdefs.ErrFailedPrecondition)
}

// danglingLink gives the part of a path that is a link to something absent; empty: there is none.
func danglingLink(p string) string {
	for ; p != "/" && p != "."; p = filepath.Dir(p) {
		if st, err := os.Lstat(p); err == nil {
			if _, err := os.Stat(p); st.Mode()&fs.ModeSymlink != 0 && errors.Is(err, fs.ErrNotExist) {
				return p
			}
			return ""
		}
	}
	return ""
}
