package rich

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	pouchv1 "github.com/cri-pouch/cri-pouch/cri/api/pouch/v1"
	"github.com/cri-pouch/cri-pouch/integration/harness"
	"github.com/cri-pouch/cri-pouch/integration/lab"
	"github.com/cri-pouch/cri-pouch/internal/mountpoint"
	"github.com/cri-pouch/cri-pouch/internal/pouchinit"
	"github.com/cri-pouch/cri-pouch/internal/richrun"
)

// A systemctl that lies, or never ends, or says too much, is answered with what is known without it.
func TestSystemctlIsNotTrusted(t *testing.T) {
	n := harness.Start(t)
	for name, tc := range map[string]struct {
		script  string
		problem string // in it; empty: there is none
		units   int    // at most, besides the application
	}{
		"never ends":       {"trap '' TERM HUP INT; sleep 1000000 & sleep 1000000", "did not end in time", 0},
		"says too much":    {"while :; do echo Id=x.service; echo; done", "did not end in time", 0},
		"fails":            {`printf 'Failed\033[2J to\nconnect\377\n' >&2; exit 3`, "code 3: Failed?[2J to connect?", 0},
		"says nothing":     {"exit 0", "lists no services", 0},
		"is no program":    {"", "systemctl", 0},
		"talks of others":  {`s=$(printf 'a\033'); i=0; while [ $i -lt 3000 ]; do echo "Id=s$i.service"; echo "SubState=$s"; echo; i=$((i+1)); done; echo Id=../../etc.service`, "", 1000},
		"hurts itself too": {`printf 'Id=pouch-app.service\nActiveState=failed\nMainPID=1\nNRestarts=77\n\n'; exit 4`, "code 4", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := "#!/bin/sh\n" + tc.script + "\n"
			if tc.script == "" {
				text = "#!/no/such/shell\n"
			}
			tag := strings.ReplaceAll(name, " ", "-")
			ref := push(t, n, "systemd", tag, nil, lab.File{Name: "usr/local/sbin/systemctl", Mode: 0o755, Content: []byte(text)})
			c := n.RunPod(t, pod("systemd", "shutdown-timeout", "5s")).Run(t, "app", probe(ref, "wait", "exit=0"))
			c.AwaitLine(t, boot, "waiting")
			begin := time.Now()
			resp := inside(t, c)
			if took := time.Since(begin); took > harness.Patience(harness.LongEnough) {
				t.Errorf("the answer took %s", took)
			}
			if tc.problem == "" && resp.Problem != "" || !strings.Contains(resp.Problem, tc.problem) || strings.ContainsFunc(resp.Problem, func(r rune) bool { return r < ' ' || r > '~' }) {
				t.Errorf("the problem is %q, wanted %q", resp.Problem, tc.problem)
			}
			if len(resp.Units)-1 > tc.units {
				t.Errorf("%d units", len(resp.Units))
			}
			if a, u := resp.Application, resp.Units[0]; a.State != "running" || u.MainPid != a.Pid || u.GetRestarts() != 0 || a.Pid <= 1 {
				t.Errorf("the application is %v, %v", a, u)
			}
			if told := len(resp.Processes) > 1; told != (tc.problem != "" && name != "hurts itself too") {
				t.Errorf("%d processes, problem %q", len(resp.Processes), resp.Problem)
			}
			code, out, errs := command(t, n, "ps", "--units", c.ID)
			if (code == 0) != (tc.problem == "") || strings.Contains(out+errs, "\x1b") || !strings.Contains(out, "pouch-app.service") {
				t.Errorf("code %d, %s\n%s", code, errs, out)
			}
			c.Stop(t, 90)
			if s := c.Status(t); s.ExitCode != 0 {
				t.Errorf("code %d, %s", s.ExitCode, s.Message)
			}
		})
	}
}

// What root inside writes into the record, and what processes call themselves, is shown as text.
func TestWhatIsToldOfTheInsideIsText(t *testing.T) {
	n := harness.Start(t)
	ref := push(t, n, "busybox", "1", nil)
	c := n.RunPod(t, pod("sbin-init")).Run(t, "app", probe(ref, "wait", "exit=0"))
	c.AwaitLine(t, boot, "waiting")
	exec(t, c, "sh", "-c", `printf 'failed 9 2 \033[2J\nfailed 9 2 \377\nfailed 9 2 %s\nunit \033]0;x\007\n' "$(head -c 5000 /dev/zero | tr '\0' x)" >>/run/.pouch/record
		name="$(printf 'sleep\033[31m\377\n')"; ln -s /bin/busybox "/tmp/$name" 2>/dev/null; sh -c 'exec sleep 1000000 "$0"' "$name" >/dev/null 2>&1 & sleep 1000000 "$(head -c 100000 /dev/zero | tr '\0' y)" >/dev/null 2>&1 &`)
	resp := inside(t, c)
	if resp.Application.State != "running" {
		t.Errorf("the application is %v", resp.Application)
	}
	for _, p := range resp.Processes {
		if len(p.Command) > 600 {
			t.Errorf("a command line has %d bytes", len(p.Command))
		}
	}
	if code, out, errs := command(t, n, "ps", "--units", c.ID); code != 0 || strings.ContainsAny(out+errs, "\x1b\x07") || !utf8.ValidString(out+errs) {
		t.Errorf("code %d, %s\n%s", code, errs, out)
	}
	exec(t, c, "sh", "-c", "echo failed 9 2 execve >>/run/.pouch/record")
	if a := inside(t, c).Application; a.State != "failed" || a.Message != "step execve: no such file or directory" || a.Pid != 0 {
		t.Errorf("the application is %v", a)
	}
	c.Stop(t, 90)
}

func TestMoreProcessesThanAnybodyReads(t *testing.T) {
	n := harness.Start(t)
	ref := push(t, n, "busybox", "1", nil)
	c := n.RunPod(t, pod("sbin-init")).Run(t, "app", image(ref, "sh", "-c", "i=0; while [ $i -lt 600 ]; do sleep 1000000 & i=$((i+1)); done; echo up; wait"))
	c.AwaitLine(t, boot, "up")
	resp := inside(t, c)
	if len(resp.Processes) != 512 || resp.ProcessesOmitted < 88 || resp.Processes[0].Pid != 1 {
		t.Errorf("%d processes, %d omitted", len(resp.Processes), resp.ProcessesOmitted)
	}
	if code, _, errs := command(t, n, "ps", "--units", c.ID); code != 0 || !strings.Contains(errs, "more processes are not listed") {
		t.Errorf("code %d, %s", code, errs)
	}
	c.Stop(t, 90)
}

func TestTheInsideOfWhatDoesNotRun(t *testing.T) {
	n := harness.Start(t)
	ref := push(t, n, "busybox", "1", nil)
	p := n.RunPod(t, pod("sbin-init", "mode.plain", "none"))
	ask := func(id string) error {
		_, err := n.Daemon.Pouch.Units(harness.Context(t), &pouchv1.UnitsRequest{ContainerId: id})
		return err
	}
	plain := p.Run(t, "plain", probe(ref, "wait", "exit=0"))
	failed(t, ask(plain.ID), codes.FailedPrecondition, plain.ID, "plain one")
	failed(t, ask("nobody"), codes.NotFound, "nobody")
	failed(t, ask(""), codes.InvalidArgument)
	if code, out, errs := command(t, n, "ps", "--units", plain.ID); code != 1 || out != "" || !strings.Contains(errs, "plain one") {
		t.Errorf("code %d, %s, %s", code, out, errs)
	}
	c := p.Create(t, "app", probe(ref, "wait", "exit=0"))
	if resp := inside(t, c); resp.Running || resp.Application.State != "waiting" || len(resp.Units) != 1 || len(resp.Processes) > 0 {
		t.Errorf("before the start: %v", resp)
	}
	c.Start(t)
	c.AwaitLine(t, boot, "waiting")
	n.KillDaemon(t)
	n.StartDaemon(t)
	if resp := inside(t, c); !resp.Running || resp.Application.State != "running" || len(resp.Processes) < 3 {
		t.Errorf("after the daemon's death: %v", resp)
	}
	c.Stop(t, 90)
	// As after a boot of the node: what stood on tmpfs is gone.
	err := errors.Join(pouchinit.Unseal(bundle(n, c)), mountpoint.Clear(filepath.Join(bundle(n, c), richrun.Dir)))
	if err == nil {
		err = os.RemoveAll(bundle(n, c))
	}
	if err != nil {
		t.Fatal(err)
	}
	failed(t, ask(c.ID), codes.FailedPrecondition, c.ID, "booted")
	_, err = n.Daemon.Pouch.InitLog(harness.Context(t), &pouchv1.InitLogRequest{ContainerId: c.ID})
	failed(t, err, codes.FailedPrecondition, c.ID, "booted")
}

// bundle is the folder of a container in the state folder.
func bundle(n *harness.Node, c *harness.Container) string {
	return filepath.Join(n.StateDir(), "containers", c.ID)
}

func TestWhatTheInitPrints(t *testing.T) {
	for _, m := range []machine{{"bullseye", "systemd"}, {"systemd", "systemd"}, {"sysvinit", "sbin-init"}, {"busybox", "sbin-init"}} {
		t.Run(m.name(), func(t *testing.T) {
			t.Parallel()
			base(t, m.image)
			n := harness.Start(t)
			ref := push(t, n, m.image, "1", nil)
			p := n.RunPod(t, pod(m.mode))
			c := p.Run(t, "app", probe(ref, "say=of the application", "wait", "exit=0"))
			c.AwaitLine(t, boot, "waiting")
			exec(t, c, "sh", "-c", `printf 'lab: \033[2Jto the console\n' >/dev/console`)
			harness.Eventually(t, "the line is in the init's log", func() bool {
				code, out, errs := command(t, n, "logs", "--init", c.ID)
				if code != 0 || strings.Contains(out, "of the application") || strings.Contains(out, "\r") {
					t.Fatalf("code %d, %s\n%s", code, errs, out)
				}
				return strings.Contains(out, "lab: \x1b[2Jto the console\n")
			})
			if strings.Contains(c.LogText(t), "to the console") {
				t.Error("it is in the container's log too")
			}
			c.Stop(t, 90)
			_, out, _ := command(t, n, "logs", "--init", c.ID)
			if !strings.Contains(out, "to the console") {
				t.Errorf("after the end:\n%s", out)
			}
			_, last, _ := command(t, n, "logs", "--init", "--tail", "1", c.ID)
			if strings.Count(last, "\n") > 1 || last == "" || !strings.HasSuffix(out, last) {
				t.Errorf("the last line is %q", last)
			}
			// An application with a terminal has one of its own.
			tty := p.Run(t, "tty", probe(ref, "say=of the application", "wait", "exit=0"), func(c *runtime.ContainerConfig) { c.Tty, c.Stdin = true, true })
			tty.AwaitLine(t, boot, "waiting")
			exec(t, tty, "sh", "-c", "echo lab: to the console >/dev/console")
			harness.Eventually(t, "the line is in the init's log", func() bool {
				_, out, _ := command(t, n, "logs", "--init", tty.ID)
				return strings.Contains(out, "lab: to the console\n") && !strings.Contains(out, "of the application")
			})
			tty.Stop(t, 90)
		})
	}
}

// Whatever an init prints, some of it is kept.
func TestWhatTheInitPrintsIsBounded(t *testing.T) {
	n := harness.Start(t)
	ref := push(t, n, "busybox", "1", nil)
	c := n.RunPod(t, pod("sbin-init")).Run(t, "app", probe(ref, "wait", "exit=0"))
	c.AwaitLine(t, boot, "waiting")
	exec(t, c, "sh", "-c", "i=0; while [ $i -lt 60000 ]; do echo \"line $i of what never ends\"; i=$((i+1)); done >/dev/console; echo the last one >/dev/console")
	var text []byte
	harness.Eventually(t, "the last line is told", func() bool {
		resp, err := n.Daemon.Pouch.InitLog(harness.Context(t), &pouchv1.InitLogRequest{ContainerId: c.ID[:20]})
		if err != nil || resp.ContainerId != c.ID {
			t.Fatal(resp, err)
		}
		text = resp.Text
		return strings.HasSuffix(string(text), "the last one\n")
	})
	if len(text) < 200<<10 || len(text) > 512<<10 {
		t.Errorf("%d bytes are kept", len(text))
	}
	// No part is missing in between.
	lines := strings.Split(string(text), "\n")
	first := 0
	if _, err := fmt.Sscanf(lines[1], "line %d", &first); err != nil {
		t.Fatalf("%q: %v", lines[1], err)
	}
	for i, line := range lines[1 : len(lines)-2] {
		if line != fmt.Sprintf("line %d of what never ends", first+i) {
			t.Fatalf("line %d is %q", first+i, line)
		}
	}
	c.Stop(t, 90)
}

func TestInitsThatHaveNoLogOfTheirOwn(t *testing.T) {
	n := harness.Start(t)
	ref := push(t, n, "busybox", "1", nil)
	p := n.RunPod(t, pod("sbin-init", "mode.plain", "none", "mode.dumb", "dumb-init"))
	for name, want := range map[string]string{"plain": "plain container", "dumb": "dumb-init mode", "created": "not been started"} {
		t.Run(name, func(t *testing.T) {
			c := p.Create(t, name, probe(ref, "wait", "exit=0"))
			if name != "created" {
				c.Start(t)
			}
			_, err := n.Daemon.Pouch.InitLog(harness.Context(t), &pouchv1.InitLogRequest{ContainerId: c.ID})
			failed(t, err, codes.FailedPrecondition, c.ID, want)
			if code, out, errs := command(t, n, "logs", "--init", c.ID); code != 1 || out != "" || !strings.Contains(errs, want) {
				t.Errorf("code %d, %s, %s", code, out, errs)
			}
		})
	}
	_, err := n.Daemon.Pouch.InitLog(harness.Context(t), &pouchv1.InitLogRequest{ContainerId: "nobody"})
	failed(t, err, codes.NotFound)
}
