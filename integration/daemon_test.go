package integration

import (
	"context"
	"os/exec"
	"testing"
	"time"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// runDaemon runs a further daemon with the node's own command line until it ends, at most 20 s.
func runDaemon(t testing.TB, n *harness.Node, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience(20*time.Second))
	defer cancel()
	if len(args) == 0 {
		args = n.Daemon.Args()
	}
	out, err := exec.CommandContext(ctx, n.Binary, args...).CombinedOutput()
	return string(out), err
}
