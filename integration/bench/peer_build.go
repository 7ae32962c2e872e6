package bench

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
)

// The peer's versions.
const (
	ContainerdVersion = "v2.4.2"
	RuncVersion       = "v1.5.2"
)

// BuildPeers builds containerd, its shim and runc from the Go module proxy into dir, unless they stand there already. runc
// needs libseccomp's headers.
func BuildPeers(ctx context.Context, dir string, say func(format string, args ...any)) error {
	stamp := filepath.Join(dir, "versions")
	want := fmt.Sprintf("containerd %s\nrunc %s\n%s\n", ContainerdVersion, RuncVersion, goruntime.Version())
	if got, err := os.ReadFile(stamp); err == nil && string(got) == want {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	const containerd = "github.com/containerd/containerd/v2/cmd/"
	for _, args := range [][]string{
		{"install", containerd + "containerd@" + ContainerdVersion, containerd + "containerd-shim-runc-v2@" + ContainerdVersion},
		{"install", "-tags", "seccomp", "github.com/opencontainers/runc@" + RuncVersion},
	} {
		say("go %v", args)
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Env = append(os.Environ(), "GOBIN="+dir, "CGO_ENABLED=1")
		cmd.Dir = dir // not in this module: its versions are not the peer's
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build the peer: go %v: %w\n%s", args, err, out)
		}
	}
	return os.WriteFile(stamp, []byte(want), 0o644)
}
