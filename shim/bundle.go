package shim

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// maxSpec bounds a config.json; real ones have some 20 KiB.
const maxSpec = 4 << 20

// readSpec reads a bundle's config.json and refuses what the shim cannot work with.
func readSpec(bundle string) (*specs.Spec, error) {
	f, err := os.Open(filepath.Join(bundle, "config.json"))
	if err != nil {
		return nil, fmt.Errorf("bundle: %w (%w)", err, errdefs.ErrInvalidArgument)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSpec+1))
	if err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	if len(b) > maxSpec {
		return nil, fmt.Errorf("bundle: config.json has more than %d bytes: %w", maxSpec, errdefs.ErrInvalidArgument)
	}
	spec := &specs.Spec{}
	if err := json.Unmarshal(b, spec); err != nil {
		return nil, fmt.Errorf("bundle: config.json: %w (%w)", err, errdefs.ErrInvalidArgument)
	}
	if err := checkSpec(spec); err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	return spec, nil
}

// checkSpec refuses a specification that the shim cannot work with.
func checkSpec(spec *specs.Spec) error {
	switch {
	case spec.Root == nil || !filepath.IsAbs(spec.Root.Path):
		return fmt.Errorf("root.path is not absolute: %w", errdefs.ErrInvalidArgument)
	case spec.Process == nil:
		return fmt.Errorf("process is missing: %w", errdefs.ErrInvalidArgument)
	case spec.Linux == nil || spec.Linux.CgroupsPath == "" || filepath.Clean("/"+spec.Linux.CgroupsPath) == "/":
		return fmt.Errorf("linux.cgroupsPath is missing: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}
