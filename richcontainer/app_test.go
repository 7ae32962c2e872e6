package richcontainer

import (
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// What systemd gives its services must not show.
func TestOpenFilesAreLimitedAsInAPlainContainer(t *testing.T) {
	needRoot(t)
	of := func(soft, hard uint64) specs.POSIXRlimit {
		return specs.POSIXRlimit{Type: "RLIMIT_NOFILE", Soft: soft, Hard: hard}
	}
	node := of(1024, 524288)
	for name, tc := range map[string]struct {
		node  *specs.POSIXRlimit
		asked []specs.POSIXRlimit
		want  string
	}{
		"the node's":         {&node, nil, "\x00l7 1024 524288\x00"},
		"the container's":    {&node, []specs.POSIXRlimit{of(5, 6)}, "\x00l7 5 6\x00"},
		"beside another":     {&node, []specs.POSIXRlimit{{Type: "RLIMIT_CORE", Soft: 1, Hard: 2}}, "\x00l4 1 2\x00l7 1024 524288\x00"},
		"the node's unknown": {nil, nil, "\x00g0\x00d/srv\x00"},
	} {
		t.Run(name, func(t *testing.T) {
			r := request(t, Systemd, rootfs(t, debian(nil)))
			r.Spec.Process.Rlimits = tc.asked
			n := v1
			n.OpenFiles = tc.node
			if _, err := n.Prepare(r); err != nil {
				t.Fatal(err)
			}
			if app := made(t, r, "app"); !strings.Contains(app, tc.want) {
				t.Errorf("the launcher is told %q, want %q in it", app, tc.want)
			}
		})
	}
}
