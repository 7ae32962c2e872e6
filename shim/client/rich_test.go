package client_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cri-pouch/cri-pouch/internal/richrun"
	"github.com/cri-pouch/cri-pouch/shim/task"
)

// service is the beginning of a small init: the launcher is its one service, and USR2 shuts it down.
const service = `echo init begins; trap 'echo init ends; kill $service 2>/dev/null; wait $service; exit 0' USR2
setsid /run/.pouch/launch & service=$!
`

// forever lets a shell wait so that it takes signals at once.
const forever = `while :; do sleep 0.02; done`

// richly prepares a container whose pid 1 runs the script init and whose application runs the script app.
func (l *lab) richly(id, init, app string, change func(*specs.Spec, *richrun.Plan, *richrun.App)) task.CreateRequest {
	l.t.Helper()
	folder := filepath.Join(l.state, "bundles", id, richrun.Dir)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		l.t.Fatal(err)
	}
	if out, err := exec.Command("make", "-s", "-C", "../../init", "OUT="+filepath.Join(folder, richrun.LaunchFile)).CombinedOutput(); err != nil {
		l.t.Fatalf("build pouch-init: %v\n%s", err, out)
	}
	for _, name := range []string{richrun.ControlFIFO, richrun.StdinFIFO, richrun.StdoutFIFO, richrun.StderrFIFO} {
		if err := unix.Mkfifo(filepath.Join(folder, name), 0o622); err != nil {
			l.t.Fatal(err)
		}
	}
	spec := l.spec(id, "sh", "-c", init)
	mount := func(from, to string, options ...string) {
		spec.Mounts = append(spec.Mounts, specs.Mount{Destination: to, Type: "bind", Source: from, Options: append(options, "rbind")})
	}
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/run", Type: "tmpfs", Source: "tmpfs", Options: []string{"mode=755"}})
	mount(folder, richrun.Folder, "ro")
	mount(filepath.Join(folder, richrun.RecordFile), richrun.Folder+"/"+richrun.RecordFile, "rw")
	plan := richrun.Plan{Mode: "test", Shutdown: int(unix.SIGUSR2), ShutdownTimeout: 20 * time.Second}
	a := richrun.App{Args: []string{"/bin/sh", "-c", app}, Env: []string{"PATH=/bin"}, Dir: "/"}
	if change != nil {
		change(spec, &plan, &a)
	}
	text, err := a.Encode()
	if err != nil {
		l.t.Fatal(err)
	}
	for name, content := range map[string][]byte{richrun.AppFile: text, richrun.RecordFile: nil} {
		if err := os.WriteFile(filepath.Join(folder, name), content, 0o644); err != nil {
			l.t.Fatal(err)
		}
	}
	r := l.request(id, spec)
	r.Stdin = a.Stdin
	if err := plan.Write(r.Bundle); err != nil {
		l.t.Fatal(err)
	}
	return r
}

// record reads what the launcher has done.
func (l *lab) record(r task.CreateRequest) richrun.Record {
	l.t.Helper()
	record, err := richrun.ReadRecord(r.Bundle)
	if err != nil {
		l.t.Fatal(err)
	}
	return record
}

func (l *lab) stop(id string) {
	l.t.Helper()
	if err := l.client.Kill(l.ctx, id, uint32(unix.SIGTERM), false); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) running(r task.CreateRequest) {
	l.t.Helper()
	l.eventually("the application runs", func() bool { _, ok := l.record(r).Running(); return ok })
}

func TestTheApplicationDecidesTheEnd(t *testing.T) {
	l := newLab(t)
	for id, tc := range map[string]struct {
		init, app string
		code      uint32
	}{
		"code":         {service + forever, "echo out; echo err >&2; exit 42", 42},
		"success":      {service + forever, "echo out; echo err >&2", 0},
		"signal":       {service + forever, "echo out; echo err >&2; kill -SEGV $$", 139},
		"init-differs": {strings.Replace(service, "exit 0", "exit 77", 1) + forever, "echo out; echo err >&2; exit 5", 5},
		"leftovers":    {service + forever, "echo out; echo err >&2; sleep 1000 & exit 6", 6},
	} {
		l.run(l.richly(id, tc.init, tc.app, nil))
		if exit := l.finish(id); exit.Code != tc.code || exit.OOMKilled {
			t.Errorf("%s: %+v", id, exit)
		}
		if out, err := l.text(id, "stdout"), l.text(id, "stderr"); out != "out\n" || err != "err\n" {
			t.Errorf("%s: the log has %q and %q", id, out, err)
		}
		said, err := os.ReadFile(filepath.Join(l.state, "bundles", id, richrun.InitLog))
		if err != nil || string(said) != "init begins\ninit ends\n" {
			t.Errorf("%s: the init said %q, %v", id, said, err)
		}
	}
}

func TestAMissingProgramOfARichContainer(t *testing.T) {
	l := newLab(t)
	l.run(l.richly("c", service+forever, "", func(_ *specs.Spec, _ *richrun.Plan, a *richrun.App) { a.Args = []string{"/no/such/program"} }))
	if exit := l.finish("c"); exit.Code != 127 {
		t.Errorf("%+v", exit)
	}
}

func TestStopGoesToTheApplicationFirst(t *testing.T) {
	l := newLab(t)
	r := l.richly("c", service+forever, `trap 'echo asked; exit 3' TERM; echo up; `+forever, nil)
	l.run(r)
	l.eventually("it is up", func() bool { return strings.Contains(l.text("c", "stdout"), "up") })
	l.stop("c")
	if exit := l.finish("c"); exit.Code != 3 {
		t.Errorf("%+v", exit)
	}
	if text := l.text("c", "stdout"); text != "up\nasked\n" {
		t.Errorf("the log has %q", text)
	}
}

// Asking the application again leaves it its time, as a client does that was cut off; asking all shuts the init down.
func TestAStopOfAllShutsTheInitDown(t *testing.T) {
	l := newLab(t)
	r := l.richly("c", service+forever, `trap 'echo asked' TERM; echo up; `+forever, nil)
	l.run(r)
	l.eventually("it is up", func() bool { return strings.Contains(l.text("c", "stdout"), "up") })
	for n := range 3 {
		l.stop("c")
		l.eventually("it was asked", func() bool { return strings.Count(l.text("c", "stdout"), "asked") == n+1 })
	}
	said := func() string {
		text, _ := os.ReadFile(filepath.Join(l.state, "bundles", "c", richrun.InitLog))
		return string(text)
	}
	if l.record(r).Done || strings.Contains(said(), "init ends") {
		t.Errorf("it is done, or the init said %q", said())
	}
	if err := l.client.Kill(l.ctx, "c", uint32(unix.SIGTERM), true); err != nil {
		t.Fatal(err)
	}
	l.eventually("the init shuts down", func() bool { return strings.Contains(said(), "init ends") })
	// This init sends SIGTERM and waits for ever: the shutdown's end is for the client to enforce, or the timeout.
	l.kill("c")
	if exit := l.finish("c"); exit.Code != 137 || exit.OOMKilled {
		t.Errorf("%+v", exit)
	}
}

// An init that has only begun does not hear the first signal.
func TestAnInitThatListensLateIsToldAgain(t *testing.T) {
	l := newLab(t)
	r := l.richly("c", `echo ready >&2; sleep 1; trap 'exit 0' USR2; `+forever, "echo never", func(_ *specs.Spec, p *richrun.Plan, _ *richrun.App) { p.ShutdownTimeout = time.Hour })
	l.run(r)
	l.stop("c")
	if exit := l.finish("c"); exit.Code != 143 {
		t.Errorf("%+v", exit)
	}
}

func TestAStopBeforeTheApplicationWasStarted(t *testing.T) {
	l := newLab(t)
	l.run(l.richly("c", `trap 'exit 0' USR2; echo ready >&2; `+forever, "echo never", nil))
	path := filepath.Join(l.state, "bundles", "c", richrun.InitLog)
	l.eventually("the init is ready", func() bool { said, _ := os.ReadFile(path); return len(said) > 0 })
	l.stop("c")
	if exit := l.finish("c"); exit.Code != 143 {
		t.Errorf("%+v", exit)
	}
	if text := l.text("c", "stdout"); text != "" {
		t.Errorf("the log has %q", text)
	}
}

func TestInitsThatDoNotEnd(t *testing.T) {
	l := newLab(t)
	deaf := strings.Replace(service, `trap 'echo init ends; kill $service 2>/dev/null; wait $service; exit 0' USR2`, `trap '' USR2 TERM`, 1)
	// Its services are gone, itself it stays, as sysvinit and busybox do: here it waits in a read that nobody answers.
	l.run(l.richly("alone", deaf+`while :; do read x </run/.pouch/stdin; done`, "exit 4", func(_ *specs.Spec, p *richrun.Plan, _ *richrun.App) {
		p.KillWhenAlone, p.ShutdownTimeout = true, time.Hour
	}))
	if exit := l.finish("alone"); exit.Code != 4 {
		t.Errorf("alone: %+v", exit)
	}
	l.run(l.richly("deaf", deaf+"sleep 1000 & "+forever, "exit 5", func(_ *specs.Spec, p *richrun.Plan, _ *richrun.App) { p.ShutdownTimeout = 100 * time.Millisecond }))
	if exit := l.finish("deaf"); exit.Code != 5 {
		t.Errorf("deaf: %+v", exit)
	}
}

func TestAnInitThatEndsByItself(t *testing.T) {
	l := newLab(t)
	for id, tc := range map[string]struct {
		init, app string
		code      uint32
	}{
		"under-it":  {service + "while [ ! -s /run/.pouch/record ]; do sleep 0.01; done; exit 0", forever, 137},
		"never":     {"exit 0", "exit 5", 255},
		"crash":     {"exit 9", "exit 5", 9},
		"power-off": {service + "while ! grep -q start /run/.pouch/record; do sleep 0.01; done; kill -TERM $service; wait $service; exit 0", `trap 'exit 8' TERM; ` + forever, 8},
	} {
		l.run(l.richly(id, tc.init, tc.app, nil))
		if exit := l.finish(id); exit.Code != tc.code && (id != "power-off" || exit.Code != 143) { // before its trap is set
			t.Errorf("%s: %+v", id, exit)
		}
	}
}

func TestAWatchedUnit(t *testing.T) {
	l := newLab(t)
	init := service + `while ! grep -q start /run/.pouch/record; do sleep 0.01; done
/run/.pouch/launch unit other.service; /run/.pouch/launch unit web.service; ` + forever
	l.run(l.richly("c", init, forever, func(_ *specs.Spec, p *richrun.Plan, _ *richrun.App) { p.WatchUnits = []string{"web.service"} }))
	if exit := l.finish("c"); exit.Code != 1 {
		t.Errorf("%+v", exit)
	}
}

func TestOOMInARichContainer(t *testing.T) {
	l := newLab(t)
	limit := int64(32 << 20)
	hungry := "dd if=/dev/zero of=/dev/null bs=200M count=1"
	limited := func(s *specs.Spec, _ *richrun.Plan, _ *richrun.App) {
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit, Swap: &limit}
	}
	l.run(l.richly("app", service+forever, "exec "+hungry, limited))
	if exit := l.finish("app"); exit.Code != 137 || !exit.OOMKilled {
		t.Errorf("the application's: %+v", exit)
	}
	// Another service's end is not the application's, neither then nor later.
	events, err := l.client.Events(l.ctx)
	if err != nil {
		t.Fatal(err)
	}
	r := l.richly("cron", service+"while ! grep -q start /run/.pouch/record; do sleep 0.01; done; "+hungry+"; "+forever, forever, limited)
	l.run(r)
	if e := <-events; e.Type != task.EventOOM || e.ID != "cron" {
		t.Fatalf("event %+v", e)
	}
	l.running(r)
	l.eventually("the application is known to have survived", func() bool { // before, its death would be held for a late consequence
		p, err := richrun.ReadProgress(r.Bundle)
		return err == nil && p.OOMSeen > 0
	})
	run, _ := l.record(r).Running()
	if err := unix.Kill(l.hostPid("cron", run.PID), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if exit := l.finish("cron"); exit.Code != 137 || exit.OOMKilled {
		t.Errorf("another's: %+v", exit)
	}
}

// hostPid finds a process of a container by its number there (NSpid of proc_pid_status(5)).
func (l *lab) hostPid(id string, inside int) int {
	l.t.Helper()
	pids, err := l.client.Pids(l.ctx, id)
	if err != nil {
		l.t.Fatal(err)
	}
	for _, pid := range pids {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(status)) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "NSpid:" && f[len(f)-1] == fmt.Sprint(inside) {
				return int(pid)
			}
		}
	}
	l.t.Fatalf("process %d is not in %s", inside, id)
	return 0
}

func TestStdinAndAttachOfARichContainer(t *testing.T) {
	l := newLab(t)
	r := l.richly("c", service+forever, `while read x; do echo got $x; done; exit 7`, func(_ *specs.Spec, _ *richrun.Plan, a *richrun.App) { a.Stdin = true })
	l.run(r)
	a := l.attach("c", true, false)
	a.send("one\n")
	a.until("got one\n")
	if err := l.client.CloseIO(l.ctx, "c", ""); err != nil {
		t.Fatal(err)
	}
	if exit := l.finish("c"); exit.Code != 7 {
		t.Errorf("%+v", exit)
	}
	if err := a.end(); err != nil {
		t.Error(err)
	}
}

func TestPlansThatTheShimRefuses(t *testing.T) {
	l := newLab(t)
	for id, change := range map[string]func(*specs.Spec, *richrun.Plan, *richrun.App){
		"no-signal":  func(_ *specs.Spec, p *richrun.Plan, _ *richrun.App) { p.Shutdown = 0 },
		"bad-signal": func(_ *specs.Spec, p *richrun.Plan, _ *richrun.App) { p.Shutdown = 65 },
		"negative":   func(_ *specs.Spec, p *richrun.Plan, _ *richrun.App) { p.ShutdownTimeout = -1 },
	} {
		if _, err := l.client.Create(l.ctx, l.richly(id, service, "true", change)); err == nil {
			t.Errorf("%s was created", id)
		}
		l.gone(id)
	}
	r := l.richly("no-fifo", service, "true", nil)
	if err := os.Remove(filepath.Join(r.Bundle, richrun.Dir, richrun.StdoutFIFO)); err != nil {
		t.Fatal(err)
	}
	if _, err := l.client.Create(l.ctx, r); err == nil {
		t.Error("one without its stdout was created")
	}
	l.gone("no-fifo")
}

// Root inside can fill the FIFO that tells the launcher what to do.
func TestAStopDoesNotWaitForTheLauncher(t *testing.T) {
	l := newLab(t)
	r := l.richly("full", "trap 'exit 0' USR2; "+forever, "exit 0", nil)
	l.run(r)
	control, err := os.OpenFile(filepath.Join(r.Bundle, richrun.Dir, richrun.ControlFIFO), os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	if err := control.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = control.Write(make([]byte, 4096))
	}
	l.stop("full")
	if exit := l.finish("full"); exit.Code != 143 {
		t.Errorf("%+v", exit)
	}
}

// An init without a service that restarts it would live on over an application that is gone, or that nobody knows the end of.
func TestTheLaunchersDeathEndsTheContainer(t *testing.T) {
	l := newLab(t)
	for id, app := range map[string]string{
		"lost":          "echo runs; kill -KILL $PPID; " + forever,
		"lost-at-start": "kill -KILL $PPID; exit 3",
	} {
		r := l.richly(id, service+forever, app, nil)
		l.run(r)
		if exit := l.finish(id); exit.Code != 137 || exit.OOMKilled {
			t.Errorf("%s: %+v", id, exit)
		}
		if p, err := richrun.ReadProgress(r.Bundle); err != nil || p.Because != richrun.LauncherLost {
			t.Errorf("%s: %+v, %v", id, p, err)
		}
		said, err := os.ReadFile(filepath.Join(l.state, "bundles", id, richrun.InitLog))
		if err != nil || string(said) != "init begins\ninit ends\n" {
			t.Errorf("%s: the init said %q, %v", id, said, err)
		}
	}
}
