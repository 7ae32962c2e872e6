package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
	"github.com/cri-pouch/cri-pouch/integration/harness"
)

// journal reads what the daemon's journal has.
func journal(t testing.TB, n *harness.Node, r *pouchv1.EventsRequest) (all []*pouchv1.Event, err error) {
	t.Helper()
	stream, err := n.Daemon.Pouch.Events(harness.Context(t), r)
	for err == nil {
		var m *pouchv1.EventsResponse
		if m, err = stream.Recv(); err == nil {
			if m.Missed != 0 {
				t.Errorf("%d entries are missing before %v", m.Missed, m.Event)
			}
			all = append(all, m.Event)
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return all, err
}

// story is what a row of events tells, as "started 0".
func story(all []*pouchv1.Event) (words []string) {
	for _, e := range all {
		words = append(words, fmt.Sprintf("%s %d", e.Kind, e.Attempt))
	}
	return words
}

// metric gives a value of the daemon's /metrics.
func metric(t testing.TB, address, name string) string {
	t.Helper()
	text, err := httpGet("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` (.*)$`).FindStringSubmatch(text)
	if m == nil {
		return ""
	}
	return m[1]
}

// A container crashes, is restarted, upgraded to a version that cannot start, and to one that can. Who follows sees it
// happen, who asks later, also another daemon, reads the same; metrics count it.
func TestTheJournalTellsWhatHappened(t *testing.T) {
	address := "127.0.0.1:" + itoa(int(freePort(t)))
	n := harness.Start(t, harness.Config("[metrics]\naddress = \""+address+"\"\n"))
	n.Pull(t, harness.Busybox2)
	p := n.RunPod(t)
	uid := p.Config.Metadata.Uid
	stream, err := n.Daemon.Pouch.Events(harness.Context(t), &pouchv1.EventsRequest{Follow: true, Pod: uid})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"created 0", "started 0", "ended 0", "created 1", "started 1", "restarted 1", "ended 1", "created 2", "start-failed 2", "upgrade-failed 2",
		"created 3", "started 3", "upgraded 3", "removed 0",
	}
	first := p.Run(t, "web", version(0, harness.Busybox, "aaaa"), harness.Sh("exit 3"))
	first.Ended(t)
	second := p.Run(t, "web", version(1, harness.Busybox, "aaaa"))
	second.Stop(t, 0)
	broken := p.Create(t, "web", version(2, harness.Busybox2, "bbbb"), harness.Command("/missing"))
	if _, err := n.Daemon.Runtime.StartContainer(harness.Context(t), &runtime.StartContainerRequest{ContainerId: broken.ID}); err == nil {
		t.Error("a program that is not there was started")
	}
	third := p.Run(t, "web", version(3, harness.Busybox2, "cccc"))
	first.Remove(t)
	n.RunPod(t).RunToEnd(t, "other", harness.Command("true")) // of which nothing is to be seen

	var followed []*pouchv1.Event
	for range want {
		m, err := stream.Recv()
		if err != nil {
			t.Fatalf("after %q: %v", story(followed), err)
		}
		followed = append(followed, m.Event)
	}
	if got := story(followed); strings.Join(got, ", ") != strings.Join(want, ", ") {
		t.Fatalf("the journal tells\n%q, want\n%q", got, want)
	}
	for _, e := range followed {
		if e.PodUid != uid || e.PodSandboxId != p.ID || e.PodName != p.Config.Metadata.Name || e.PodNamespace != "lab" || e.ContainerName != "web" || e.Time == 0 {
			t.Errorf("an event is incomplete: %v", e)
		}
	}
	if e := followed[2]; e.GetExitCode() != 3 || e.Reason != "Error" || e.ContainerId != first.ID {
		t.Errorf("the first end is %v", e)
	}
	if e := followed[9]; e.PredecessorId != second.ID || !strings.Contains(e.Message, "/missing") {
		t.Errorf("the failed upgrade is %v", e)
	}
	outage := (third.Status(t).StartedAt - second.Status(t).FinishedAt) / 1e6
	if e := followed[12]; e.PredecessorId != second.ID || e.OutageMs == nil || *e.OutageMs != outage || e.Image != harness.Busybox2 {
		t.Errorf("the upgrade is %v, its outage was %d ms", e, outage)
	}
	for name, want := range map[string]string{
		`cri_pouch_upgrades_total{result="succeeded"}`: "1", `cri_pouch_upgrades_total{result="failed"}`: "1",
		"cri_pouch_upgrade_outage_seconds_count": "1", "cri_pouch_upgrade_outage_seconds_sum": strconv.FormatFloat(float64(outage)/1000, 'g', -1, 64),
	} {
		if got := metric(t, address, name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}

	n.KillDaemon(t)
	if _, err := stream.Recv(); err == nil {
		t.Error("the stream goes on without a daemon")
	}
	n.StartDaemon(t)
	again, err := journal(t, n, &pouchv1.EventsRequest{Pod: "lab/" + p.Config.Metadata.Name})
	if err != nil {
		t.Fatal(err)
	}
	if len(again) != len(followed) {
		t.Fatalf("another daemon tells\n%q", story(again))
	}
	for i, e := range again {
		if e.String() != followed[i].String() {
			t.Errorf("another daemon tells %v, before it was %v", e, followed[i])
		}
	}
	third.Stop(t, 0)
	last := followed[len(followed)-1]
	more, err := journal(t, n, &pouchv1.EventsRequest{Pod: p.ID[:12], After: last.Number})
	if err != nil || len(more) != 1 || more[0].Kind != "ended" || more[0].Number <= last.Number {
		t.Errorf("what comes next is %v, %v", more, err)
	}
	if more, err := journal(t, n, &pouchv1.EventsRequest{Pod: uid, Since: last.Time + 1}); err != nil || len(more) != 1 {
		t.Errorf("since then: %v, %v", more, err)
	}
}

// A follower that goes away, or never reads, holds nothing up and leaves nothing behind.
func TestFollowersHoldNothingUp(t *testing.T) {
	address := "127.0.0.1:" + itoa(int(freePort(t)))
	n := harness.Start(t, harness.Config("[metrics]\naddress = \""+address+"\"\n"))
	p := n.RunPod(t)
	ctx, cancel := context.WithCancel(harness.Context(t))
	for range 20 {
		if _, err := n.Daemon.Pouch.Events(ctx, &pouchv1.EventsRequest{Follow: true}); err != nil {
			t.Fatal(err)
		}
	}
	inFlight := func(want string) {
		t.Helper()
		harness.Eventually(t, want+" calls of Events are in progress", func() bool {
			return metric(t, address, `cri_pouch_rpc_in_flight{rpc="Events"}`) == want
		})
	}
	inFlight("20")
	for i := range 20 {
		c := p.Run(t, "app", version(uint32(i), harness.Busybox, "aaaa"))
		c.Stop(t, 0)
		c.Remove(t)
	}
	cancel()
	inFlight("0")
}

func TestAPodsHistoryIsBounded(t *testing.T) {
	n := harness.Start(t)
	p := n.RunPod(t)
	images := []string{harness.Busybox, harness.Busybox2}
	n.Pull(t, harness.Busybox2)
	var old *harness.Container
	side := p.Run(t, "side", version(0, harness.Busybox, "aaaa"))
	for i := range uint32(30) {
		c := p.Run(t, "web", version(i, images[i%2], fmt.Sprint("hash", i)))
		if i == 29 {
			break
		}
		c.Stop(t, 0)
		if old != nil {
			old.Remove(t) // the kubelet keeps one dead container
		}
		old = c
	}
	restarted(t, n, func() {
		all := historyOf(t, p, "web")
		if len(all) != 20 {
			t.Fatalf("history has %d generations", len(all))
		}
		for i, g := range all {
			if want := uint32(10 + i); g.Attempt != want || g.Cause != pouchv1.Cause_CAUSE_UPGRADE || g.OutageMs == nil || g.Hash != fmt.Sprint("hash", want) {
				t.Errorf("generation %d is %v", i, g)
			}
		}
		if got := historyOf(t, p, "side"); len(got) != 1 || got[0].ContainerId != side.ID {
			t.Errorf("the other container's history is %v", got)
		}
	})
}

func TestHistoryAndEventsAskedBadly(t *testing.T) {
	n := harness.Start(t)
	p := n.RunPod(t)
	ask := func(id string) error {
		_, err := n.Daemon.Pouch.History(harness.Context(t), &pouchv1.HistoryRequest{PodSandboxId: id})
		return err
	}
	wantCode(t, ask("nowhere"), codes.NotFound, "nowhere")
	wantCode(t, ask(""), codes.InvalidArgument)
	wantCode(t, ask(strings.Repeat("x", 1<<20)), codes.NotFound)
	if err := ask(p.ID[:12]); err != nil {
		t.Errorf("by the beginning of an ID: %v", err)
	}
	_, err := journal(t, n, &pouchv1.EventsRequest{After: 1 << 60})
	wantCode(t, err, codes.OutOfRange, "newest entry")
	for _, pod := range []string{"nowhere", "a", strings.Repeat("x", 1<<20)} {
		if got, err := journal(t, n, &pouchv1.EventsRequest{Pod: pod}); err != nil || len(got) != 0 {
			t.Errorf("events of pod %.20q: %v, %v", pod, got, err)
		}
	}

	huge := strings.Repeat("\x1b[31m", 60<<10)
	_, err = p.TryCreate(harness.Context(t), p.ContainerConfig("app", version(0, harness.Busybox, strings.Repeat("x", 1<<20))))
	wantCode(t, err, codes.InvalidArgument, "annotations")
	name := strings.Repeat("n", 253)
	c := p.Run(t, name, version(0, harness.Busybox, huge), harness.Command("true"), func(c *runtime.ContainerConfig) { c.LogPath = "long.log" })
	c.Ended(t)
	next := p.Run(t, name, version(1, harness.Busybox, huge+"x"), func(c *runtime.ContainerConfig) { c.LogPath = "next.log" })
	c.Remove(t)
	all := historyOf(t, p, name)
	if len(all) != 2 || all[1].Cause != pouchv1.Cause_CAUSE_UPGRADE || len(all[0].Hash) > 100 || len(all[1].Hash) > 100 {
		t.Errorf("history is %v", all)
	}
	n.Pull(t, harness.Busybox)
	if _, err := pull(harness.Context(t), n, "images.test/"+strings.Repeat("a/", 100)+"missing:1", nil); err == nil {
		t.Error("a missing image was pulled")
	}
	harness.Eventually(t, "the failed pull is in the journal", func() bool {
		all, err := journal(t, n, &pouchv1.EventsRequest{})
		return err == nil && len(all) > 0 && all[len(all)-1].Kind == "pull-failed" && strings.Contains(all[len(all)-1].Message, "missing")
	})
	out := commandLine(t, n, 0, "history", p.ID)
	if strings.ContainsRune(out, '\x1b') || !strings.Contains(out, client12(next.ID)) {
		t.Errorf("the table is %q", out)
	}
}

// A daemon whose journal cannot be opened runs pods all the same.
func TestADaemonWithoutAJournal(t *testing.T) {
	n := harness.Start(t)
	n.TerminateDaemon(t)
	dir := filepath.Join(n.RootDir(), "journal")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	n.StartDaemon(t)
	if _, code := n.RunPod(t).RunToEnd(t, "app", harness.Command("true")); code != 0 {
		t.Errorf("exit code %d", code)
	}
	_, err := journal(t, n, &pouchv1.EventsRequest{})
	wantCode(t, err, codes.Unimplemented, "journal")
	if !strings.Contains(n.Daemon.LogTail(1<<20), "what happens to containers is not kept") {
		t.Error("the log does not say so")
	}
}

// client12 is an ID as tables show it.
func client12(id string) string { return id[:12] }

// commandLine runs the program as a client of the node's daemon and gives its stdout.
func commandLine(t testing.TB, n *harness.Node, code int, args ...string) string {
	t.Helper()
	var out, errs strings.Builder
	cmd := exec.CommandContext(harness.Context(t), filepath.Join(filepath.Dir(n.Binary), "cri-pouch"), append([]string{"--socket", n.Socket()}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); cmd.ProcessState.ExitCode() != code {
		t.Errorf("cri-pouch %q: %v, %s", args, err, errs.String())
	}
	return out.String()
}

func TestHistoryAndEventsOnTheCommandLine(t *testing.T) {
	n := harness.Start(t)
	n.Pull(t, harness.Busybox2)
	p := n.RunPod(t)
	old := p.Run(t, "web", version(0, harness.Busybox, "aaaa"))
	old.Stop(t, 0)
	web := p.Run(t, "web", version(1, harness.Busybox2, "bbbb"))
	old.Remove(t)
	for _, name := range []string{p.ID, p.ID[:10], p.Config.Metadata.Name, "lab/" + p.Config.Metadata.Name} {
		lines := strings.Split(strings.TrimSpace(commandLine(t, n, 0, "history", name)), "\n")
		if len(lines) != 3 || !strings.HasPrefix(lines[0], "NAME") {
			t.Fatalf("history %s prints %q", name, lines)
		}
		for i, want := range [][]string{{"web", "0", client12(old.ID), "first", harness.Busybox, "aaaa", "-", "Exited (137)"},
			{"web", "1", client12(web.ID), "upgrade", harness.Busybox2, "bbbb", " ms", "Running"}} {
			for _, w := range want {
				if !strings.Contains(lines[i+1], w) {
					t.Errorf("%q is not in %q", w, lines[i+1])
				}
			}
		}
	}
	var h struct {
		Generations []struct{ ContainerID, ImageRef, Cause, OutageMs, PredecessorID string }
	}
	text := commandLine(t, n, 0, "history", p.ID, "-o", "json")
	if err := json.Unmarshal([]byte(text), &h); err != nil || len(h.Generations) != 2 || h.Generations[1].ContainerID != web.ID ||
		h.Generations[1].Cause != "CAUSE_UPGRADE" || h.Generations[1].PredecessorID != old.ID || !strings.Contains(h.Generations[1].ImageRef, "@sha256:") {
		t.Errorf("%v in %s", err, text)
	}
	if got := strings.Fields(commandLine(t, n, 0, "history", p.ID, "-q")); len(got) != 2 || got[1] != web.ID {
		t.Errorf("IDs only: %q", got)
	}
	lines := strings.Split(strings.TrimSpace(commandLine(t, n, 0, "events", "--pod", p.Config.Metadata.Name)), "\n")
	for i, want := range []string{"created", "started", "ended", "created", "started", "upgraded", "removed"} {
		if i >= len(lines) || !strings.Contains(lines[i], " "+want+" ") || !strings.Contains(lines[i], "lab/"+p.Config.Metadata.Name+"/web#") {
			t.Errorf("events prints %q, line %d should be %s", lines, i, want)
		}
	}
	lines = strings.Split(strings.TrimSpace(commandLine(t, n, 0, "events", "--since", "1h", "-o", "json")), "\n")
	for _, line := range lines {
		var e struct{ Event struct{ Number, Kind string } }
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.Event.Number == "" || e.Event.Kind == "" {
			t.Errorf("%v in %s", err, line)
		}
	}
	commandLine(t, n, 1, "history", "nowhere")
	commandLine(t, n, 2, "history")
	commandLine(t, n, 2, "events", "--since", "-1s")
	commandLine(t, n, 1, "events", "--after", "99999999")
}
