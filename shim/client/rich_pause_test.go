package client_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cri-pouch/cri-pouch/shim/task"
)

// A pause holds up the application, its init and all services alike; a stop that comes meanwhile is not lost.
func TestARichContainerIsPausedAsAWhole(t *testing.T) {
	l := newLab(t)
	r := l.richly("c", `echo 0 >/run/n; (n=0; while :; do n=$((n+1)); echo $n >/run/n; sleep 0.01; done) & `+service+forever,
		`trap 'exit 3' TERM; while :; do echo "$(cat /run/n)"; sleep 0.01; done`, nil)
	l.run(r)
	l.eventually("it writes", func() bool { return len(l.log("c")) > 3 })
	if err := l.client.Pause(l.ctx, "c"); err != nil {
		t.Fatal(err)
	}
	if info, err := l.client.State(l.ctx, "c"); err != nil || info.Status != task.Paused {
		t.Errorf("%+v, %v", info, err)
	}
	before := -1
	l.eventually("what it had written is in the log", func() bool { // all of it once nothing comes any more
		n := len(l.log("c"))
		same := n == before
		before = n
		time.Sleep(100 * time.Millisecond)
		return same
	})
	l.stop("c")
	time.Sleep(3 * time.Second) // nothing may happen in this time
	if n := len(l.log("c")); n != before || l.record(r).Done {
		t.Errorf("the log went from %d to %d lines while it was paused", before, n)
	}
	if err := l.client.Resume(l.ctx, "c"); err != nil {
		t.Fatal(err)
	}
	if exit := l.finish("c"); exit.Code != 3 {
		t.Errorf("code %d", exit.Code)
	}
	// The service counts a hundredth of a second each: it has not counted those of the pause.
	counted := strings.Fields(l.text("c", "stdout"))
	var last, first int
	fmt.Sscan(counted[before-1], &last)
	if len(counted) > before {
		fmt.Sscan(counted[before], &first)
	}
	if first-last > 150 {
		t.Errorf("the service counted from %d to %d while it was paused", last, first)
	}
	l.run(l.richly("killed", service+forever, forever, nil))
	if err := l.client.Pause(l.ctx, "killed"); err != nil {
		t.Fatal(err)
	}
	l.kill("killed")
	if exit := l.finish("killed"); exit.Code != 137 {
		t.Errorf("code %d", exit.Code)
	}
}
