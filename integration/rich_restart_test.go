package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
	"github.com/cri-pouch/cri-pouch/integration/harness"
	"github.com/cri-pouch/cri-pouch/integration/lab"
	"github.com/cri-pouch/cri-pouch/internal/richrun"
)

// A crash loop inside of a container is seen from outside while it goes on, also over a restart of the daemon, and each
// restart once; what happens while no daemon runs is told by the next one.
func TestRestartsInsideAreTold(t *testing.T) {
	metrics, address := metricsOption(t)
	n := harness.Start(t, metrics)
	ref := pushBusybox(t, n, "rich:init", func(*v1.ConfigFile) {}, lab.BusyboxInit()...)
	p := n.RunPod(t, annotated(richMode, "sbin-init", "rich.cri-pouch.io/restart", "on-failure", "rich.cri-pouch.io/restart-limit", "3", "rich.cri-pouch.io/restart-interval", "10ms"))
	dir := t.TempDir()
	c := p.Run(t, "app", image(ref, 0), harness.Sh("while [ ! -e /witness/go ]; do sleep 0.05; done; rm /witness/go; exit 9"), func(c *runtime.ContainerConfig) {
		c.Mounts = []*runtime.Mount{{HostPath: dir, ContainerPath: "/witness"}}
	})
	told := func() (codes []int32) {
		all, err := journal(t, n, &pouchv1.EventsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range all {
			if e.Kind == "app-restarted" && e.ContainerId == c.ID {
				codes = append(codes, e.GetExitCode())
			}
		}
		return codes
	}
	fail := func() {
		if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	fail()
	harness.Eventually(t, "the first restart is told", func() bool { return len(told()) == 1 })
	if got := metric(t, address, "cri_pouch_app_restarts_total"); got != "1" {
		t.Errorf("the metric is %s", got)
	}
	n.KillDaemon(t)
	fail()
	harness.Eventually(t, "the application is started again while no daemon runs", func() bool { _, err := os.Stat(filepath.Join(dir, "go")); return err != nil && starts(t, n, c) == 3 })
	n.StartDaemon(t)
	harness.Eventually(t, "the second restart is told", func() bool { return len(told()) == 2 })
	if got := metric(t, address, "cri_pouch_app_restarts_total"); got != "1" {
		t.Errorf("the metric is %s", got)
	}
	n.KillDaemon(t)
	n.StartDaemon(t)
	fail()
	harness.Eventually(t, "the third restart is told", func() bool { return len(told()) == 3 })
	fail()
	if _, code := c.Ended(t); code != 9 {
		t.Errorf("code %d", code)
	}
	if s := c.Status(t); !strings.Contains(s.Message, "restarted inside 3 times") {
		t.Errorf("message %q", s.Message)
	}
	for _, code := range told() {
		if code != 9 {
			t.Errorf("a restart after code %d", code)
		}
	}
}

// starts is how many starts of its application a container's record tells of.
func starts(t *testing.T, n *harness.Node, c *harness.Container) int {
	t.Helper()
	r, err := richrun.ReadRecord(filepath.Join(n.StateDir(), "containers", c.ID))
	if err != nil {
		t.Fatal(err)
	}
	return r.Starts
}

// A crash loop inside that is faster than anybody can read takes no more than its share of the journal: what is not listed is
// counted.
func TestManyRestartsInsideAreCounted(t *testing.T) {
	metrics, address := metricsOption(t)
	n := harness.Start(t, metrics)
	ref := pushBusybox(t, n, "rich:init", func(*v1.ConfigFile) {}, lab.BusyboxInit()...)
	const restarts = 90
	p := n.RunPod(t, annotated(richMode, "sbin-init", "rich.cri-pouch.io/restart", "on-failure", "rich.cri-pouch.io/restart-limit", "1000", "rich.cri-pouch.io/restart-interval", "0s"))
	dir := t.TempDir()
	script := fmt.Sprintf("echo x >>/witness/starts; [ $(wc -l </witness/starts) -gt %d ] || exit 9; while :; do sleep 1000; done", restarts)
	c := p.Run(t, "app", image(ref, 0), harness.Sh(script), func(c *runtime.ContainerConfig) {
		c.Mounts = []*runtime.Mount{{HostPath: dir, ContainerPath: "/witness"}}
	})
	harness.Eventually(t, "all restarts are counted", func() bool { return metric(t, address, "cri_pouch_app_restarts_total") == fmt.Sprint(restarts) })
	c.Stop(t, 5)
	c.Ended(t)
	all, err := journal(t, n, &pouchv1.EventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	listed, omitted := 0, 0
	for _, e := range all {
		if e.Kind != "app-restarted" || e.ContainerId != c.ID {
			continue
		}
		listed++
		var more int
		if _, err := fmt.Sscanf(e.Message, "%d restarts before this one are not listed", &more); err != nil && e.Message != "" {
			t.Errorf("%q: %v", e.Message, err)
		}
		omitted += more
	}
	if listed+omitted != restarts || listed < 32 || listed > 64 {
		t.Errorf("%d restarts are listed, %d counted", listed, omitted)
	}
	if got := metric(t, address, "cri_pouch_app_restarts_total"); got != fmt.Sprint(restarts) {
		t.Errorf("the metric is %s", got)
	}
}
