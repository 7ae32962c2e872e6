package integration

import (
	"context"
	"os/exec"
	"testing"

	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// runDaemon runs a further daemon with the node's own command line until it ends, at most LongEnough.
func runDaemon(t testing.TB, n *harness.Node, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience(harness.LongEnough))
	defer cancel()
	if len(args) == 0 {
		args = n.Daemon.Args()
	}
	out, err := exec.CommandContext(ctx, n.Binary, args...).CombinedOutput()
	return string(out), err
}
